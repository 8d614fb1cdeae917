"""Every scheme: which layers, how exact its gradients, what it saves, and that it survives a start.

The reference of the gradients is a float32 copy of the model that multiplies by the dequantised
weights, with the same adapter values.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sd3tune import load as planned
from sd3tune import quant
from sd3tune.demo import tiny, tokenizers
from sd3tune.plan.memory import stored
from sd3tune.plan.plan import Plan
from sd3tune.processes.world import ALONE_ON_CPU
from sd3tune.quant import store
from sd3tune.sd3 import weights
from sd3tune.train.begin import begin
from tests.cpu.adapted import MULTIPLYING, QUANTISING, gradients, quantised, question, with_adapter
from tests.plans import decided
from tests.this_machine import prepared_here

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
CONTEXT = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
FEED_FORWARD = ("net.0.proj", "net.2")
CPU = torch.device("cpu")


def by_name(name: str) -> set[str]:
    """What is quantised, written out: attention and feed-forward of every block, both branches."""
    shape = tiny.SHAPES[name]
    found = set()
    for i in range(shape["num_layers"]):
        last, dual = i == shape["num_layers"] - 1, i in shape.get("dual_attention_layers", ())
        block = f"transformer_blocks.{i}"
        found |= {f"{block}.attn.{part}" for part in (*ATTENTION, *CONTEXT)}
        found |= {f"{block}.attn2.{part}" for part in ATTENTION if dual}
        found |= {f"{block}.ff.{part}" for part in FEED_FORWARD}
        found |= {f"{block}.ff_context.{part}" for part in FEED_FORWARD}
        if last:  # its text branch ends after attention
            found -= {n for n in found if n.startswith(f"{block}.ff_context")}
            found -= {f"{block}.attn.to_add_out"}
    return found


@pytest.mark.parametrize("name", tiny.SHAPES)
@pytest.mark.parametrize("scheme", ["int8-quanto", "nf4-bnb", "int8-w8a8"])
def test_attention_and_feed_forward_are_quantised_and_nothing_else(name: str, scheme: str) -> None:
    plain, small = quantised("no_change", name), quantised(scheme, name)
    kinds = {"Nf4Linear", "QLinear", "W8A8Linear"}
    found = {n for n, m in small.named_modules() if type(m).__name__ in kinds}
    assert found == by_name(name)
    untouched = {
        n for n, m in plain.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)
    } - found
    sensitive = ("norm1.linear", "norm1_context.linear", "proj_out", "norm_out.linear",
                 "context_embedder", "pos_embed.proj", "timestep_embedder.linear_1",
                 "text_embedder.linear_2")  # fmt: skip
    assert all(any(n.endswith(s) for n in untouched) for s in sensitive)
    for n in untouched:
        ours, theirs = small.get_submodule(n).weight, plain.get_submodule(n).weight
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs), n


def dequantised_copy(small: Any) -> Any:
    """A float32 model of the same shape that holds what `small` multiplies by."""
    model = quantised("no_change")
    for name, part in model.named_modules():
        if isinstance(part, nn.Linear):
            part.weight.data = quant.dequantised(small.get_submodule(name)).float()
    return model


ERRORS: dict[str, tuple[float, float]] = {}


@pytest.mark.parametrize("scheme", QUANTISING)
def test_gradients_are_those_of_the_dequantised_weights(scheme: str) -> None:
    small = quantised(scheme)
    reference = with_adapter(dequantised_copy(small))
    ours, theirs = gradients(with_adapter(small)), gradients(reference)
    assert len(ours) > 50

    def error(n: str) -> float:
        return float((ours[n] - theirs[n]).norm() / theirs[n].norm())

    ERRORS[scheme] = error("loss"), max(error(n) for n in ours if n != "loss")
    print("\n" + "\n".join(f"{k:<12} loss {a:.1e}  worst gradient {b:.1e}"
                           for k, (a, b) in ERRORS.items()))  # fmt: skip
    assert ERRORS[scheme][0] < 1e-6 and ERRORS[scheme][1] < 2e-5


# Relative error of the output of the tiny model, about twice what was measured.
LIMITS = {"int8-quanto": 0.002, "fp8-quanto": 0.01, "int4-quanto": 0.03, "nf4-bnb": 0.03,
          "int2-quanto": 0.12, "int8-w8a8": 0.004, "fp8-w8a8": 0.02}  # fmt: skip


@pytest.mark.parametrize("scheme", [*QUANTISING, *MULTIPLYING])
def test_outputs_stay_close_and_adaln_layers_would_cost_most(scheme: str) -> None:
    def answer(which: quant.Patterns | None) -> Tensor:
        model = quantised("no_change").eval()
        if which is not None:
            quant.apply(model, scheme, which=which)
        with torch.no_grad():
            found: Tensor = model(**question())[0]
        return found

    plain = answer(None)

    def error(which: quant.Patterns) -> float:
        return float((answer(which) - plain).norm() / plain.norm())

    ours = error(quant.TRANSFORMER)
    everything = error((("*",), ("pos_embed*",)))
    print(f"\n{scheme}: {ours:.4f}, with every linear {everything:.4f}")
    assert 0 < ours < LIMITS[scheme]
    assert everything > 1.5 * ours


@pytest.mark.parametrize("scheme", QUANTISING)
def test_float32_reaches_bfloat16_weights(scheme: str) -> None:
    """What layer norm hands over under autocast, to weights that TinyGemm would have refused."""
    torch.manual_seed(0)
    block = nn.Module()
    block.transformer_blocks = nn.ModuleList([nn.Linear(256, 64, dtype=torch.bfloat16)])
    quant.apply(block, scheme)
    linear, x = block.transformer_blocks[0], torch.randn(8, 256, requires_grad=True)
    y = linear(x)
    assert isinstance(linear.bias, torch.Tensor)
    want = x.detach() @ quant.dequantised(linear).float().t() + linear.bias.float()
    assert float((y.detach().float() - want).norm() / want.norm()) < 0.01
    y.float().square().sum().backward()
    assert x.grad is not None and torch.isfinite(x.grad).all()


VIEWS: dict[str, Callable[[], Tensor]] = {
    "transposed": lambda: torch.randn(256, 8).t(),
    "every other value": lambda: torch.randn(2, 4, 512)[..., ::2],
    "one row for all": lambda: torch.randn(1, 256).expand(8, 256),
    "no row": lambda: torch.randn(2, 0, 256),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("scheme", [*QUANTISING, *MULTIPLYING])
def test_views_and_empty_batches_are_multiplied_like_copies(
    scheme: str, dtype: torch.dtype
) -> None:
    """In float32 under bf16 autocast and in the weights' own format; the gradient is a view too."""
    torch.manual_seed(0)
    block = nn.Module()
    block.transformer_blocks = nn.ModuleList([nn.Linear(256, 64, dtype=dtype)])
    quant.apply(block, scheme)
    linear = block.transformer_blocks[0]
    for autocast in (False, True):
        for name, view in VIEWS.items():
            x = view().to(torch.float32 if autocast else dtype)
            found = []
            for there in (x, x.clone(memory_format=torch.contiguous_format)):
                leaf = there.detach().requires_grad_()
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    y = linear(leaf)
                y.float().sum().backward()  # whose gradient is one number for all
                assert leaf.grad is not None and leaf.grad.dtype == leaf.dtype
                found.append((y.detach(), leaf.grad))
            for ours, theirs in zip(*found, strict=True):
                assert ours.shape == theirs.shape and torch.allclose(ours, theirs, rtol=1e-2), name


@pytest.mark.parametrize("flavour", ["float8_e4m3fn", "float8_e4m3fnuz"])
def test_fp8_takes_the_flavour_of_the_chip(flavour: str) -> None:
    model = tiny.transformer(tiny.SHAPES["sd3-medium"])
    quant.apply(model, "fp8-quanto", fp8=flavour)
    linear = model.transformer_blocks[0].attn.to_q
    assert linear.weight._data.dtype == getattr(torch, flavour)


@pytest.mark.parametrize("scheme", [*QUANTISING, *MULTIPLYING])
def test_bytes_are_counted_as_the_plan_reckons_them(scheme: str) -> None:
    block = nn.Module()
    block.transformer_blocks = nn.ModuleList([nn.Linear(512, 512, dtype=torch.bfloat16)])
    block.rest = nn.Linear(64, 64, dtype=torch.bfloat16)
    made = quant.apply(block, scheme)
    count = 512 * 512 + 512
    assert made.before == 2 * (count + 64 * 64 + 64)
    reckoned = stored(count + 64 * 64 + 64, count, "bf16", scheme)
    assert made.after == pytest.approx(reckoned, rel=0.02) and made.after < made.before


@pytest.mark.parametrize("scheme", [*QUANTISING, *MULTIPLYING])
def test_nothing_frozen_wants_a_gradient_and_t5_keeps_its_output_projections(scheme: str) -> None:
    assert not any(p.requires_grad for p in quantised(scheme).parameters())
    encoder = tiny.t5_encoder(tokenizers.t5())
    quant.apply(encoder, scheme, which=quant.TEXT_ENCODER)
    kinds = {n.rpartition(".")[2]: type(m).__name__ for n, m in encoder.named_modules()}
    assert kinds["wo"] == "Linear" and kinds["wi_0"] in ("QLinear", "Nf4Linear", "W8A8Linear")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("scheme", [*QUANTISING, *MULTIPLYING])
def test_what_was_kept_is_what_was_made_bit_for_bit(
    scheme: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    made = quantised(scheme, dtype=dtype).eval()
    path = store.place(tmp_path, "id", scheme, quant.TRANSFORMER)
    assert store.save(made, path) is None and [p.name for p in tmp_path.iterdir()] == [path.name]
    with torch.device("meta"):
        read = tiny.transformer(tiny.SHAPES["sd3.5-medium"]).eval()
    assert store.load(read, path, scheme, quant.TRANSFORMER, "float8_e4m3fn")
    ours, theirs = made.state_dict(), read.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(ours[k].dtype == theirs[k].dtype for k in ours)
    assert store._checksums(ours) == store._checksums(theirs)
    asked = {k: v.to(dtype) if isinstance(v, Tensor) else v for k, v in question().items()}
    with torch.no_grad():
        assert torch.equal(made(**asked)[0], read(**asked)[0])


@pytest.fixture(scope="module")
def quantising(demo: Path) -> Plan:
    words = ("base_model_precision=int8-quanto", "validation_disable=true")
    return prepared_here(demo / "config" / "config.json", *words).plan


@pytest.mark.slow
def test_a_second_start_reads_what_the_first_quantised(
    quantising: Plan,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan = decided(quantising, "memory", quantised_cache=tmp_path / "quantised")
    first = planned.transformer(plan, CPU)
    assert "quantised int8-quanto: 18 MiB -> 11 MiB of weights" in capsys.readouterr().err

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the float weights were read")

    monkeypatch.setattr(weights, "transformer", never)
    second = planned.transformer(plan, CPU)
    assert "11 MiB of weights, read from" in capsys.readouterr().err
    same(first, second)
    begin(replace(plan, output_dir=tmp_path), ALONE_ON_CPU)  # and it takes an adapter


def test_no_other_run_reads_it(quantising: Plan) -> None:
    """Another scheme, dtype, flavour of fp8 or model is another file; `none` is no file."""

    def at(plan: Plan) -> Path | None:
        return planned.kept_at(plan, CPU)

    source = quantising.model.source
    sibling = replace(source, transformer=str(Path(source.transformer).parent / "sd3-medium"))
    paths = {
        at(quantising),
        at(decided(quantising, "precision", transformer="int4-quanto")),
        at(decided(quantising, "precision", base="bf16")),
        at(decided(quantising, "precision", fp8_dtype="float8_e4m3fnuz")),
        at(replace(quantising, model=replace(quantising.model, source=sibling))),
    }
    assert len(paths) == 5 and None not in paths
    assert at(decided(quantising, "memory", quantised_cache=None)) is None
    assert at(decided(quantising, "precision", autocast="bf16")) == at(quantising)


def same(ours: Any, theirs: Any) -> None:
    assert store._checksums(ours.state_dict()) == store._checksums(theirs.state_dict())


def test_a_damaged_file_is_passed_over_and_made_again(
    quantising: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = decided(quantising, "memory", quantised_cache=tmp_path)
    first = planned.transformer(plan, CPU)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-1000] ^= 4
    for damaged in (whole[:-5000], bytes(flipped), b"", b"\0" * len(whole)):
        path.write_bytes(damaged)
        second = planned.transformer(plan, CPU)
        assert "is damaged; the transformer is quantised again" in capsys.readouterr().err
        same(first, second)
        assert path.read_bytes() == whole


def test_a_folder_that_cannot_be_written_is_a_warning(
    quantising: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    plan = decided(quantising, "memory", quantised_cache=tmp_path / "file" / "x")
    planned.transformer(plan, CPU)
    assert "warning: the quantised transformer was not kept" in capsys.readouterr().err


@pytest.mark.parametrize("scheme", ["int8-quanto", "int4-quanto", "fp8-quanto"])
def test_layers_are_quantised_on_the_device_that_is_asked_and_return(scheme: str) -> None:
    """`meta` is the only second device here. Numbers do not survive it, and places do."""
    block = nn.Module()
    block.transformer_blocks = nn.ModuleList([nn.Linear(64, 64)])
    with pytest.raises(NotImplementedError, match="meta"):  # nothing returns from there
        quant.apply(block, scheme, device=torch.device("meta"))
