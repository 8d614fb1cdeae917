"""Every optimizer against its paper in float64, its state, its options, and what bf16 needs."""

import copy
import json
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sd3tune.processes.world import ALONE_ON_CPU
from sd3tune.tables.optimizers import OPTIMIZERS
from sd3tune.train import optim_state, state_files
from sd3tune.train.adamw_bf16 import rounded
from sd3tune.train.begin import begin
from sd3tune.train.clip import clip
from sd3tune.train.optim import averaged, build, set_rate
from sd3tune.train.recipe import Recipe
from sd3tune.train.step import train_step
from tests.cpu.batches import WORDS, batch
from tests.cpu.conftest import Train
from tests.cpu.optimizers import REFERENCES, error, gradients, weights
from tests.plans import decided

pytestmark = pytest.mark.filterwarnings("ignore:Paged optimizers", "ignore:The .grad attribute")


def installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


NO_TORCHAO = pytest.mark.skipif(not installed("torchao"), reason="the extra torchao: not installed")
NAMES = [pytest.param(n, marks=NO_TORCHAO if n.startswith("ao-") else ()) for n in OPTIMIZERS]


def test_every_optimizer_has_its_paper() -> None:
    assert set(OPTIMIZERS) == set(REFERENCES)


@pytest.mark.parametrize("name", NAMES)
def test_the_update_is_the_paper_s(name: str) -> None:
    assert error(name) <= REFERENCES[name][1]


def grad_of(p: Tensor) -> Tensor:
    assert p.grad is not None
    return p.grad


def made(name: str, seed: int = 1, **options: Any) -> tuple[nn.Parameter, torch.optim.Optimizer]:
    dtype = torch.bfloat16 if name == "adamw_bf16" else torch.float32
    p = nn.Parameter(weights(seed).to(dtype))
    return p, build(name, [p], 1e-2, options)


def steps(p: nn.Parameter, optimizer: torch.optim.Optimizer, given: list[Tensor]) -> Tensor:
    for g in given:
        set_rate(optimizer, 1e-2)
        p.grad = g.to(p.dtype, copy=True)  # some optimizers write into gradients
        optimizer.step()
    return p.detach().clone()


@pytest.mark.parametrize("name", NAMES)
def test_state_survives_a_checkpoint_bit_for_bit(name: str, tmp_path: Path) -> None:
    (p, first), given = made(name), gradients(2, 14)
    steps(p, first, given[:7])
    tensors: dict[str, Tensor] = {}
    rest = json.dumps(state_files.flatten(first.state_dict(), "", tensors, True))
    save_file(tensors, tmp_path / "o.safetensors")
    q, second = made(name, seed=9)
    q.data.copy_(p)
    read = load_file(tmp_path / "o.safetensors")
    optim_state.put(second, state_files.unflatten(json.loads(rest), read))
    assert torch.equal(steps(p, first, given[7:]), steps(q, second, given[7:]))


@pytest.mark.parametrize("name", NAMES)
def test_state_weighs_what_the_plan_says(name: str) -> None:
    def size(value: object) -> int:
        if isinstance(value, Tensor):
            return value.numel() * value.element_size()
        if isinstance(value, dict):  # bitsandbytes' tables are shared by all weights
            value = [v for k, v in value.items() if not str(k).startswith("qmap")]
        return sum(map(size, value)) if isinstance(value, list) else 0

    p, optimizer = made(name)
    steps(p, optimizer, gradients(2, 2))
    state = optim_state.plain(optimizer.state_dict())["state"]
    got = size(state) / p.numel()
    assert got == pytest.approx(OPTIMIZERS[name].state_bytes, rel=0.03, abs=0.02)


# Another value than the default, and what else must be set for it to matter.
VALUES: dict[str, Any] = {
    "beta1": 0.5, "beta2": 0.5, "eps": 0.1, "weight_decay": 0.5, "amsgrad": True, "momentum": 0.5,
    "dampening": 0.5, "nesterov": True, "decoupled_weight_decay": True, "momentum_decay": 0.5,
    "alpha": 0.3, "centered": True, "lr_decay": 0.5, "initial_accumulator_value": 1.0, "rho": 0.5,
    "beta2_decay": -0.3, "d": 5.0, "lambd": 0.5, "t0": 1, "decouple_lr": True, "decouple_wd": True,
    "k": 2, "beta3": 0.5, "d0": 1e-3, "d_coef": 2.0, "growth_rate": 1.01,
    "bias_correction": True, "safeguard_warmup": True, "weight_decouple": False, "r": 2.0,
    "weight_lr_power": 0.0, "shampoo_beta": 0.5, "precondition_frequency": 2,
    "max_precondition_dim": 8, "correct_bias": False, "normalize_gradient": True, "t_alpha": 10,
    "t_beta3": 10, "prodigy_steps": 3,
}  # fmt: skip
WITH: dict[str, dict[str, Any]] = {
    "nesterov": {"momentum": 0.5}, "dampening": {"momentum": 0.5},
    "decoupled_weight_decay": {"weight_decay": 0.5}, "decouple_lr": {"weight_decay": 0.5},
    "decouple_wd": {"weight_decay": 0.5}, 
    "weight_decouple": {"weight_decay": 0.5},
}  # fmt: skip
UNLIKE = {("optimi-sgd", "dampening"): True, ("optimi-ranger", "decouple_wd"): False}
FAMILIES = [n for n in OPTIMIZERS if not (n.startswith("ao-") or "8bit" in n or "paged" in n)]


# On purpose: one step, to see that the option changes it.
@pytest.mark.filterwarnings("ignore:You are using weight_decay up to:UserWarning")
@pytest.mark.parametrize(
    "name, option", [(n, o) for n in FAMILIES for o in sorted(OPTIMIZERS[n].option_names)]
)
def test_every_option_changes_the_update(name: str, option: str) -> None:
    given = [g * (3 if i > 4 else 1) for i, g in enumerate(gradients(2, 10))]
    others = WITH.get(option, {})
    if name == "prodigy" and option != "d0":
        others = others | {"d0": 1e-2}

    def after(**options: Any) -> Tensor:
        p, optimizer = made(name, **options)
        for i, g in enumerate(given):
            set_rate(optimizer, 0.2 if i < 5 else 0.5)
            p.grad = g.to(p.dtype, copy=True)
            optimizer.step()
        with averaged(optimizer):
            return p.detach().clone()

    value = UNLIKE.get((name, option), VALUES[option])
    assert not torch.equal(after(**others), after(**others, **{option: value}))


def test_one_beta_leaves_the_others_at_the_optimizer_s_own() -> None:
    _, adan = made("optimi-adan", beta1=0.5)
    group = adan.param_groups[0]
    assert (group["beta1"], group["beta2"], group["beta3"]) == (0.5, 0.92, 0.99)
    _, lion = made("optimi-lion", beta1=0.5)
    assert (lion.param_groups[0]["beta1"], lion.param_groups[0]["beta2"]) == (0.5, 0.99)


# adamw_bf16


def bf16(lr: float = 1e-4, **options: Any) -> tuple[nn.Parameter, torch.optim.Optimizer]:
    p = nn.Parameter(weights(1).bfloat16() * 10)
    return p, build("adamw_bf16", [p], lr, options)


def test_momentum_of_adamw_bf16_is_a_moving_average() -> None:
    """0.9576 after thirty gradients of 1; near 0 when they alternate (0.9^t sums to 0.0504)."""
    for gradient, want in ((lambda t: 1.0, 1 - 0.9**30), (lambda t: (-1.0) ** t, 0.0504)):
        p, optimizer = bf16()
        for t in range(30):
            p.grad = torch.full_like(p, gradient(t))
            optimizer.step()
        m = optimizer.state[p]["exp_avg"].float()
        assert abs(m.mean()) == pytest.approx(want, abs=2e-3)
        assert (m.abs() - want).abs().max() < 0.05


@pytest.mark.parametrize("count, shrinks", [(200, False), (2000, False), (2000, True)])
def test_adamw_bf16_goes_where_float32_adamw_goes(count: int, shrinks: bool) -> None:
    dice, shape = torch.Generator().manual_seed(5), (16, 64)
    mean = torch.randn(shape, generator=dice) * 0.3
    p = nn.Parameter(weights(1)[:, :64].bfloat16() * 10)
    ours = build("adamw_bf16", [p], 1e-4, {})
    q = nn.Parameter(p.detach().float().clone())
    start, theirs = q.detach().clone(), torch.optim.AdamW([q], lr=1e-4)
    for i in range(count):
        small = 0.01 if shrinks and i >= count // 2 else 1.0
        g = ((mean + torch.randn(shape, generator=dice)) * small).bfloat16()
        p.grad, q.grad = g, g.float()
        ours.step()
        theirs.step()
    want, got = q.detach() - start, p.detach().float() - start
    share = ((got * want).sum() / want.square().sum()).item()
    second = ours.state[p]["exp_avg_sq"].float() / theirs.state[q]["exp_avg_sq"]
    print(f"moved {share:.3f} of the way, second moment {second.mean():.3f}")
    assert share == pytest.approx(1, abs=0.05)
    assert second.mean().item() == pytest.approx(1, abs=0.01)


def test_weight_decay_in_bf16_is_not_lost_to_rounding() -> None:
    p, optimizer = bf16(lr=1e-3, weight_decay=0.1)
    before = p.detach().float().norm()
    for _ in range(300):
        p.grad = torch.zeros_like(p)
        optimizer.step()
    assert (p.detach().float().norm() / before).item() == pytest.approx((1 - 1e-4) ** 300, rel=2e-3)


def test_rounding_is_right_on_average_and_between_the_neighbours() -> None:
    dice = torch.Generator().manual_seed(0)
    x = torch.tensor([1.0 + 1 / 1024, -3.1, 1e-30, 65504.0])
    drawn = torch.stack([rounded(x, dice).float() for _ in range(4000)])
    torch.testing.assert_close(drawn.mean(0), x, rtol=2e-4, atol=0)
    assert all(len(column.unique()) <= 2 for column in drawn.T)
    odd = torch.tensor([float("inf"), -float("inf"), float("nan"), 0.0, -0.0])
    assert torch.equal(rounded(odd, dice).isnan(), odd.isnan())
    assert torch.equal(rounded(odd, dice)[:2].float(), odd[:2])


def test_two_processes_round_alike() -> None:
    (p, one), (q, two) = bf16(), bf16()
    torch.manual_seed(1)
    first = steps(p, one, gradients(2))
    torch.manual_seed(2)
    torch.randn(5)
    assert torch.equal(first, steps(q, two, gradients(2)))


@pytest.mark.slow
def test_an_adapter_of_bf16_weights_trains_in_the_step(prepared) -> None:  # type: ignore[no-untyped-def]
    """This CPU has no bf16 and the plan would refuse: the decisions of one that has."""
    plan = prepared(*WORDS, "gradient_precision=fp32").plan
    plan = decided(decided(plan, "optimizer", name="adamw_bf16"), "precision", trainable="bf16")
    state = begin(plan, ALONE_ON_CPU)
    assert {p.dtype for p in state.trainable} == {torch.bfloat16}
    before = [p.detach().clone() for p in state.trainable]
    seen = set()
    state.optimizer.register_step_pre_hook(lambda *_: seen.add(grad_of(state.trainable[0]).dtype))
    for _ in range(2):
        taken = train_step(state, [batch(1, 2), batch(3)], Recipe.of(plan))
    assert taken.loss > 0 and seen == {torch.float32}
    assert all(not torch.equal(a, b) for a, b in zip(before, state.trainable, strict=True))


# Gradients


def test_float32_gradients_of_bf16_weights_add_up_what_bf16_loses() -> None:
    def summed(precision: str) -> Tensor:
        p = nn.Parameter(torch.zeros(64, dtype=torch.bfloat16))
        build("adamw_bf16", [p], 1e-3, {}, gradients=precision)
        for i in range(64):
            (p.float() * (1.0 if i == 0 else 1 / 300)).sum().backward()
        assert p.grad is not None
        return p.grad.double()

    want = 1 + 63 * torch.tensor(1 / 300).bfloat16().double().item()
    assert (summed("fp32") - want).abs().max() < 1e-5
    assert (summed("unmodified") - want).abs().max() > 0.1


def test_clipping_by_norm_keeps_the_direction_and_by_value_cuts_each_number() -> None:
    def clipped(limit: float, method: str) -> tuple[Tensor, float]:
        p = nn.Parameter(torch.zeros(2))
        p.grad = torch.tensor([3.0, -4.0])
        norm = clip([p], limit, method)
        return p.grad, norm.item()

    for limit, method, want in (
        (0.5, "norm", [0.3, -0.4]),
        (3.5, "value", [3.0, -3.5]),
        (0.0, "norm", [3.0, -4.0]),
        (0.0, "value", [3.0, -4.0]),
        (9.0, "norm", [3.0, -4.0]),
    ):
        got, norm = clipped(limit, method)
        torch.testing.assert_close(got, torch.tensor(want), rtol=1e-5, atol=0)
        assert norm == 5.0  # as it was before


def test_the_step_clips_by_the_method_asked_for(prepared) -> None:  # type: ignore[no-untyped-def]
    plan = prepared(*WORDS, "max_grad_norm=1e-4", "grad_clip_method=value").plan
    state = begin(plan, ALONE_ON_CPU)
    largest: list[float] = []
    state.optimizer.register_step_pre_hook(
        lambda *_: largest.append(max(grad_of(p).abs().max().item() for p in state.trainable))
    )
    train_step(state, [batch(1, 2)], Recipe.of(plan))
    assert largest == pytest.approx([1e-4])


# Prodigy and schedule-free


def test_prodigy_keeps_the_step_size_it_found() -> None:
    def found(**options: Any) -> list[float]:
        p, optimizer = made("prodigy", **options)
        sizes = []
        for g in gradients(2, 12):
            set_rate(optimizer, 1.0)
            p.grad = g
            optimizer.step()
            sizes.append(optimizer.param_groups[0]["d"])
        return sizes

    free, held = found(), found(prodigy_steps=6)
    assert held[:6] == free[:6] and set(held[5:]) == {held[5]} and free[-1] > held[-1]


def test_schedule_free_weights_are_the_average_of_the_path() -> None:
    """x after n steps is the mean of z: each z is its own SGD-like path of AdamW steps."""
    p, optimizer = made("adamw_schedulefree")
    z = []
    for g in gradients(2, 8):
        set_rate(optimizer, 1e-2)
        p.grad = g
        optimizer.step()
        z.append(optimizer.state[p]["z"].clone())
    trained = p.detach().clone()
    with averaged(optimizer):
        torch.testing.assert_close(p.detach(), torch.stack(z).mean(0), rtol=1e-5, atol=1e-6)
        assert not torch.equal(p, trained)
    assert torch.equal(p, trained) and optimizer.param_groups[0]["train_mode"]
    plain, adamw = made("adamw")
    before = plain.detach().clone()
    with averaged(adamw):
        assert torch.equal(plain, before)


@pytest.fixture
def words(tmp_path: Path) -> Iterator[tuple[str, ...]]:
    yield (*WORDS, "learning_rate=1e-2", "checkpoint_step_interval=2")


@pytest.mark.slow
def test_a_schedule_free_run_resumes_exactly_and_gives_away_the_average(
    run: Train, tmp_path: Path, words: tuple[str, ...]
) -> None:
    words = (*words, "optimizer=adamw_schedulefree", "lr_scheduler=constant")
    whole = run(*words, f"output_dir={tmp_path / 'whole'}")
    again = tmp_path / "again"
    again.mkdir()
    (tmp_path / "whole" / "checkpoint-2").rename(again / "checkpoint-2")
    resumed = run(*words, f"output_dir={again}")
    assert whole.adapter is not None and resumed.adapter is not None
    ours, theirs = load_file(resumed.adapter), load_file(whole.adapter)
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert resumed.loss_after == whole.loss_after
    folder = whole.output / "checkpoint-4"
    exported = load_file(next(folder.glob("pytorch_lora_weights*.safetensors")))
    assert all(torch.equal(exported[k], theirs[k]) for k in theirs)
    trained = load_file(folder / "trained.safetensors")
    key = next(k for k in trained if "to_q.lora_A" in k)
    assert not any(torch.equal(trained[key], e) for e in exported.values())


def test_states_of_two_libraries_adamw_are_told_apart() -> None:
    kinds = {optim_state.kind(made(n)[1]) for n in ("adamw", "optimi-adamw", "bnb-adamw")}
    assert kinds == {"torch.AdamW", "optimi.AdamW", "bitsandbytes.AdamW"}


def test_one_kernel_updates_all_weights_also_after_a_checkpoint_that_knew_none() -> None:
    """How an optimizer computes is this machine's choice, not the checkpoint's."""

    def stepped(optimizer: torch.optim.Optimizer, weight: nn.Parameter) -> Tensor:
        for seed in range(5):
            weight.grad = torch.randn(64, generator=torch.Generator().manual_seed(seed))
            optimizer.step()
        return weight.detach()

    looped = nn.Parameter(torch.ones(64))
    loop = torch.optim.AdamW([looped], lr=1e-2)
    stepped(loop, looped)
    ours = nn.Parameter(looped.detach().clone())
    fused = build("adamw", [ours], 1e-2, {})
    assert fused.param_groups[0]["fused"] is True
    optim_state.put(fused, copy.deepcopy(loop.state_dict()))
    assert fused.param_groups[0]["fused"] is True
    torch.testing.assert_close(stepped(fused, ours), stepped(loop, looped), rtol=1e-5, atol=1e-7)
    optim_state.put(loop, copy.deepcopy(fused.state_dict()))
    assert not loop.param_groups[0]["fused"]


def test_weights_that_no_kernel_takes_are_updated_one_by_one() -> None:
    nowhere = nn.Parameter(torch.ones(4, device="meta"))
    assert not build("adamw", [nowhere], 1e-2, {}).param_groups[0]["fused"]
    here = nn.Parameter(torch.ones(4))
    kinds = ("adamw", "torch-adam", "torch-sgd", "torch-adagrad")  # Adagrad's runs on CPUs alone
    fused = [bool(build(n, [here], 1e-2, {}).param_groups[0]["fused"]) for n in kinds]
    assert fused == [True, True, True, False]
