"""Guidance, skipped layers and the sampler: equal to diffusers' own pipeline, and to their
equations computed again in float64."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sd3tune.demo import tiny
from sd3tune.plan.picture_plan import SkipLayers
from sd3tune.sample import schedulers
from sd3tune.sample.pipeline import (
    ENCODERS,
    TOKENIZERS,
    Picture,
    Sampling,
    SamplingStep,
    draw_latents,
    pipeline,
)

SIZE = (64, 96)  # width, height
SKIP = SkipLayers((1,), 2.5, 0.01, 0.5)
CASES = [
    # guidance, skipped layers, shift
    (1.0, None, 3.0),
    (4.0, None, 3.0),
    (4.0, None, None),
    (4.0, SKIP, 3.0),
    (4.0, SKIP, None),
    (1.0, SKIP, 3.0),
    (0.0, SKIP, None),
]


@pytest.fixture(scope="module")
def transformer() -> Any:
    """Trained by nobody, and of an output large enough that guidance shows."""
    torch.manual_seed(0)
    model = tiny.transformer(tiny.SHAPES["sd3.5-medium"]).requires_grad_(False).eval()
    model.proj_out.weight.mul_(4.0)
    return model


@pytest.fixture(scope="module")
def embeds(transformer: Any) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    dice, own = torch.Generator().manual_seed(1), transformer.config

    def one() -> tuple[Tensor, Tensor]:
        return (torch.randn(1, 20, own.joint_attention_dim, generator=dice),
                torch.randn(1, own.pooled_projection_dim, generator=dice))  # fmt: skip

    return one(), one()


def how(
    embeds: Any, guidance: float, skip: SkipLayers | None, shift: float | None, steps: int = 6,
    sampler: str = "euler",
) -> Sampling:  # fmt: skip
    return Sampling(steps, guidance, shift, skip, "", embeds[1], None, sampler)


def drawn(transformer: Any, embeds: Any, sampling: Sampling, **more: Any) -> Tensor:
    pipe = pipeline(transformer, None, sampling.shift, sampling.sampler)
    with torch.no_grad():
        return draw_latents(pipe, Picture("a", "a", embeds[0], SIZE, seed=7), sampling, **more)


def noise_levels(steps: int, shift: float | None) -> list[float]:
    """N levels and the 0 at the end. A static shift moves the ends of the grid before it moves the
    grid: the last level is shifted twice. A dynamic one moves the grid once (dialects.md, 9)."""

    def moved(s: float, by: float) -> float:
        return by * s / (1 + (by - 1) * s)

    if shift is None:
        tokens = (SIZE[0] // 16) * (SIZE[1] // 16)
        by, least = math.exp(0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256)), 1 / 1000
    else:
        by, least = shift, moved(1 / 1000, shift)
    grid = [1 + (least - 1) * i / (steps - 1) for i in range(steps)]
    return [*(moved(s, by) for s in grid), 0.0]


def derived(transformer: Any, embeds: Any, sampling: Sampling) -> Tensor:
    """Euler's method for dz/ds = v in float64, with

        v = u + g (c - u)  for g > 1, else c
        v + scale (c - s)  in the steps i with N start < i < N stop

    u: for the negative prompt, c: for the prompt, s: for the prompt by a network without the
    skipped blocks."""
    own = copy.deepcopy(transformer).double()
    without = copy.deepcopy(own)
    if sampling.skip is not None:
        kept = [b for i, b in enumerate(own.transformer_blocks) if i not in sampling.skip.blocks]
        without.transformer_blocks = torch.nn.ModuleList(copy.deepcopy(kept))
    z = torch.randn(1, 16, SIZE[1] // 8, SIZE[0] // 8, generator=torch.Generator().manual_seed(7))
    z = z.double()
    levels, n, g = noise_levels(sampling.steps, sampling.shift), sampling.steps, sampling.guidance

    def v(network: Any, text: tuple[Tensor, Tensor], level: float) -> Tensor:
        at = torch.tensor([1000 * level], dtype=torch.float64)
        predicted: Tensor = network(z, text[0].double(), text[1].double(), at, return_dict=False)[0]
        return predicted

    with torch.no_grad():
        for i in range(n):
            c = v(own, embeds[0], levels[i])
            u = v(own, embeds[1], levels[i]) if g > 1 else c
            predicted = u + g * (c - u)
            skip = sampling.skip
            if skip is not None and n * skip.start < i < n * skip.stop:
                predicted = predicted + skip.scale * (c - v(without, embeds[0], levels[i]))
            z = z + (levels[i + 1] - levels[i]) * predicted
    return z


@pytest.mark.parametrize("guidance, skip, shift", CASES)
def test_latents_equal_the_equations_in_float64(
    transformer: Any, embeds: Any, guidance: float, skip: SkipLayers | None, shift: float | None
) -> None:
    sampling = how(embeds, guidance, skip, shift)
    ours, exact = drawn(transformer, embeds, sampling), derived(transformer, embeds, sampling)
    assert ((ours.double() - exact).norm() / exact.norm()).item() < 2e-5


def test_what_is_skipped_changes_the_picture_also_without_guidance(
    transformer: Any, embeds: Any
) -> None:
    for guidance in (1.0, 4.0):
        whole = drawn(transformer, embeds, how(embeds, guidance, None, 3.0))
        skipped = drawn(transformer, embeds, how(embeds, guidance, SKIP, 3.0))
        assert (whole - skipped).norm() > 0.01 * whole.norm()


@pytest.mark.parametrize("guidance, skip, shift", [c for c in CASES if c[0] > 1])
def test_latents_equal_diffusers_own_pipeline_bit_for_bit(
    transformer: Any, embeds: Any, guidance: float, skip: SkipLayers | None, shift: float | None
) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

    grid = {"use_dynamic_shifting": True} if shift is None else {"shift": shift}
    pipe = StableDiffusion3Pipeline(
        transformer=transformer, vae=None, scheduler=FlowMatchEulerDiscreteScheduler(**grid),
        **dict.fromkeys((*ENCODERS, *TOKENIZERS)),
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    more = {} if skip is None else {
        "skip_guidance_layers": list(skip.blocks), "skip_layer_guidance_scale": skip.scale,
        "skip_layer_guidance_start": skip.start, "skip_layer_guidance_stop": skip.stop,
    }  # fmt: skip
    theirs = pipe(
        prompt_embeds=embeds[0][0], pooled_prompt_embeds=embeds[0][1],
        negative_prompt_embeds=embeds[1][0], negative_pooled_prompt_embeds=embeds[1][1],
        width=SIZE[0], height=SIZE[1], num_inference_steps=6, guidance_scale=guidance,
        generator=torch.Generator().manual_seed(7), output_type="latent", **more,
    ).images  # fmt: skip
    assert torch.equal(drawn(transformer, embeds, how(embeds, guidance, skip, shift)), theirs)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("steps, skipped", [(20, [1, 2, 3]), (28, [1, 2, 3, 4, 5])])
def test_layers_are_skipped_strictly_inside_the_window(
    transformer: Any, embeds: Any, guidance: float, steps: int, skipped: list[int]
) -> None:
    seen: list[tuple[bool, float]] = []

    def saw(_: Any, args: Any, given: dict[str, Any]) -> None:
        seen.append((given.get("skip_layers") == [1], float(given["timestep"][0])))

    handle = transformer.register_forward_pre_hook(saw, with_kwargs=True)
    try:
        drawn(
            transformer, embeds, how(embeds, guidance, SkipLayers((1,), 2.8, 0.01, 0.2), 3.0, steps)
        )
    finally:
        handle.remove()
    times = [t for skips, t in seen if not skips]
    assert [times.index(t) for skips, t in seen if skips] == skipped and len(times) == steps


def test_each_step_is_reported_with_its_time_and_latents(transformer: Any, embeds: Any) -> None:
    seen: list[SamplingStep] = []
    last = drawn(transformer, embeds, how(embeds, 4.0, None, 3.0, steps=4), on_step=seen.append)
    assert [s.number for s in seen] == [1, 2, 3, 4] and {s.total for s in seen} == {4}
    # dialects.md, 9; and D4 of the reference: shift 3, four steps
    assert np.allclose([s.timestep for s in seen], [1000, 857.69, 602.15, 8.93], atol=0.01)
    assert torch.equal(seen[-1].latents, last)


@pytest.mark.slow
@pytest.mark.parametrize("shift", [3.0, None])
@pytest.mark.parametrize("name", ["heun", "unipc", "dpm++"])
def test_every_sampler_comes_to_the_picture_of_euler(
    transformer: Any, embeds: Any, name: str, shift: float | None
) -> None:
    if name == "heun" and shift is None:
        pytest.skip("refused: diffusers' Heun has no dynamic shift")
    exact = derived(transformer, embeds, how(embeds, 1.0, None, shift, steps=200))
    rough, fine = (
        drawn(transformer, embeds, how(embeds, 1.0, None, shift, steps, name)).double()
        for steps in (6, 24)
    )
    errors = [((z - exact).norm() / exact.norm()).item() for z in (rough, fine)]
    assert errors[1] < 0.02 and errors[1] < errors[0] / 2, errors


def test_a_sampler_that_nobody_has_is_refused() -> None:
    from sd3tune.errors import ConfigError

    with pytest.raises(ConfigError, match="`sampler=ddim` is not a sampler of SD3"):
        schedulers.scheduler("ddim", 3.0)
