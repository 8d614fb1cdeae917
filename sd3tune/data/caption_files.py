"""The caption files that lie beside images."""

from collections.abc import Iterable, Iterator, Sequence

from sd3tune.data.headers import suffix_of

KINDS = (".txt", ".caption")  # the first one goes first


class CaptionFiles:
    """The caption file of each image: `a.txt` or `a.caption` for `a.png`, or `a.png.txt`; suffixes
    in upper or lower case. listed: all files of the dataset; None if they were not listed."""

    def __init__(self, listed: Iterable[str] | None) -> None:
        self._is_listed = listed is not None
        self._files: dict[str, str] = {}  # without suffix -> name
        for name in sorted(listed or (), key=_rank, reverse=True):
            if suffix_of(name) in KINDS:
                self._files[_stem(name)] = name

    def of(self, image: str) -> Sequence[str]:
        """The names under which the caption of an image may be, best first."""
        if not self._is_listed:
            return [*_usual(_stem(image)), *_usual(image)]
        found = [self._files[n] for n in (_stem(image), image) if n in self._files]
        return found[:1] or [f"{_stem(image)}.txt"]

    def beside(self, images: Iterable[str]) -> Iterator[str]:
        """The caption files of these images."""
        for image in images:
            if self._is_listed and (_stem(image) in self._files or image in self._files):
                yield self.of(image)[0]


def _usual(name: str) -> list[str]:
    return [f"{name}{suffix}" for kind in KINDS for suffix in (kind, kind.upper())]


def _rank(name: str) -> tuple[int, bool]:
    """Kinds in their order, lower case before upper case."""
    suffix = suffix_of(name)
    kind = KINDS.index(suffix) if suffix in KINDS else len(KINDS)
    return kind, not name.endswith(suffix)


def _stem(name: str) -> str:
    """The name without its suffix, as PurePosixPath.with_suffix("") has it."""
    return name[: -len(suffix)] if (suffix := suffix_of(name)) not in ("", ".") else name
