"""Regions of small black-and-white pictures: connected parts, holes, shrinking and growing."""

import numpy as np

from sd3tune.demo.ideal_shapes import Mask


def components(mask: Mask) -> list[Mask]:
    """The connected parts of a mask, one mask each. Pixels touch by their edges."""
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    runs = list(zip(*np.nonzero(edges == 1), np.nonzero(edges == -1)[1], strict=True))
    parents = list(range(len(runs)))
    above = 0  # the first run that may touch: both are in the order of rows and columns
    for i, (row, start, end) in enumerate(runs):
        while runs[above][0] < row - 1 or (runs[above][0] < row and runs[above][2] <= start):
            above += 1
        for j in range(above, i):
            if runs[j][0] == row or runs[j][1] >= end:
                break
            parents[_root(parents, i)] = _root(parents, j)
    parts: dict[int, Mask] = {}
    for i, (row, start, end) in enumerate(runs):
        root = _root(parents, i)
        if root not in parts:
            parts[root] = np.zeros_like(mask)
        parts[root][row, start:end] = True
    return list(parts.values())


def _root(parents: list[int], i: int) -> int:
    while parents[i] != i:
        i = parents[i]
    return i


def grown(mask: Mask, pixels: int) -> Mask:
    """With all neighbours, in squares."""
    for _ in range(pixels):
        wide = mask.copy()
        wide[1:] |= mask[:-1]
        wide[:-1] |= mask[1:]
        mask = wide.copy()
        mask[:, 1:] |= wide[:, :-1]
        mask[:, :-1] |= wide[:, 1:]
    return mask


def eroded(mask: Mask, pixels: int) -> Mask:
    """Without what is near the outside; the picture's edge is not outside."""
    return ~grown(~mask, pixels)


def filled(mask: Mask, most: float) -> Mask:
    """With holes of up to `most` pixels filled."""
    result = mask.copy()
    for hole in holes(mask):
        if hole.sum() <= most:
            result |= hole
    return result


def holes(mask: Mask) -> list[Mask]:
    """The parts outside a mask that do not reach the picture's edge."""
    outside = components(np.pad(~mask, 1, constant_values=True))
    return [part[1:-1, 1:-1] for part in outside if not part[0, 0]]


def separated(mask: Mask, pixels: int) -> list[Mask]:
    """The parts of a mask, cut where they hang together by less than 2 * pixels."""
    cores = [c for c in components(eroded(mask, pixels)) if c.sum() > 4]
    if len(cores) < 2:
        return components(mask)
    rest = mask & ~np.any(cores, 0)
    while rest.any():
        before = rest.sum()
        for i, core in enumerate(cores):
            gain = grown(core, 1) & rest
            cores[i] = core | gain
            rest = rest & ~gain
        if rest.sum() == before:
            break
    return cores + components(rest)
