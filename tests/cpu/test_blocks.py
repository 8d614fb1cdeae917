"""Checkpointed and swapped blocks: the same numbers from less memory."""

import weakref
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sd3tune import offload
from sd3tune.config.files.lycoris_config import Lycoris
from sd3tune.demo import tiny
from sd3tune.errors import PlanError
from sd3tune.plan.plan import Plan
from sd3tune.prepare import prepare_run
from sd3tune.processes.world import ALONE_ON_CPU
from sd3tune.quant.parts import parts
from sd3tune.train import checkpointing
from sd3tune.train.begin import begin
from sd3tune.train.inputs_on_host import InputsOnHost
from tests.cpu.adapted import SCHEMES, gradients, model_of, question
from tests.cpu.conftest import Train
from tests.plans import decided
from tests.this_machine import prepared_here

SWAP, ON = "blocks_to_swap=1", "gradient_checkpointing=true"


@pytest.fixture(scope="module")
def checkpointed(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    words = (f"output_dir={tmp_path_factory.mktemp('output')}", ON, "validation_disable=true")
    return prepared_here(demo / "config" / "config.json", *words).plan


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys() and len(ours) > 20
    unequal = [n for n in ours if not torch.equal(ours[n], theirs[n])]
    assert not unequal


@pytest.mark.parametrize("interval", [1, 2, 3])
@pytest.mark.parametrize("on_host", [False, True], ids=["torch", "unsloth"])
def test_checkpointing_changes_no_bit_of_any_gradient(interval: int, on_host: bool) -> None:
    kept, forgetful = model_of(), model_of()
    place = InputsOnHost(torch.device("cpu"), pin=False) if on_host else nullcontext
    checkpointing.checkpoint_blocks(forgetful, interval, place)
    same(gradients(forgetful), gradients(kept))


@pytest.mark.parametrize("interval, runs", [(1, 6), (2, 5), (3, 4), (0, 3)])
def test_every_nth_block_runs_twice(interval: int, runs: int) -> None:
    model, seen = model_of(), []
    for block in model.transformer_blocks:
        block.register_forward_pre_hook(lambda module, args: seen.append(module))
    if interval:
        checkpointing.checkpoint_blocks(model, interval)
    gradients(model)
    assert len(seen) == runs


def test_only_the_inputs_of_blocks_are_moved_to_the_host() -> None:
    model, moved = model_of(), []

    class Counting(torch.autograd.graph.saved_tensors_hooks):
        def __init__(self) -> None:
            super().__init__(lambda t: moved.append(tuple(t.shape)) or t, lambda t: t)

    checkpointing.checkpoint_blocks(model, 1, Counting)
    gradients(model)
    image, text, time = (2, 64, 192), (2, 20, 192), (2, 192)
    assert moved == [image, text, time] * 3


@pytest.mark.parametrize("name", tiny.SHAPES)
def test_swapped_blocks_give_the_same_gradients_on_each_architecture(name: str) -> None:
    still, swapped = model_of(name=name), model_of(name=name)
    for model in (still, swapped):
        checkpointing.checkpoint_blocks(model, 1)
    offload.stream(swapped, len(swapped.transformer_blocks), Tensor.clone, Tensor.clone)
    same(gradients(swapped), gradients(still))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_swapped_blocks_of_every_precision_leave_the_device_when_they_have_run(
    scheme: str,
) -> None:
    """Copies are counted while they live: at most two blocks', none after forward or backward."""
    still, swapped = model_of(scheme), model_of(scheme)
    for model in (still, swapped):
        checkpointing.checkpoint_blocks(model, 1)
    device = Device()
    offload.stream(swapped, len(swapped.transformer_blocks), Tensor.clone, device.copy)
    ours, theirs = gradients(swapped), gradients(still)
    same(ours, theirs)
    largest = max(map(weight_bytes, still.transformer_blocks))
    assert device.alive == 0 and largest < device.most <= 2 * largest
    assert device.copied == 2 * sum(map(weight_bytes, still.transformer_blocks))  # forward, again
    loss = swapped(**question())[0].square().mean()
    assert device.alive == 0  # between forward and backward, where checkpointing forgets
    loss.backward()


@pytest.mark.parametrize("scheme", SCHEMES[:-1])  # bitsandbytes' layers cannot go to `meta`
def test_no_weight_is_used_from_the_wrong_memory(scheme: str) -> None:
    """`meta` stands in for the device: it has no numbers, and refuses to work with the host's."""
    meta = torch.device("meta")
    asked = {k: v.to(meta) if isinstance(v, Tensor) else v for k, v in question().items()}

    def placed(to_device: Callable[[Tensor], Tensor]) -> Any:
        model = model_of(scheme)
        checkpointing.checkpoint_blocks(model, 1)
        offload.stream(model, 2, Tensor.clone, to_device)
        return model.to(meta)

    model = placed(lambda t: t.to(meta, copy=True))
    loss = model(**asked)[0].square().mean()
    loss.backward()
    found = [p.grad.device for p in model.parameters() if p.grad is not None]
    assert len(found) > 20 and set(found) == {meta}
    with pytest.raises(RuntimeError, match="device"):
        placed(Tensor.clone)(**asked)


@pytest.mark.slow
def test_a_run_with_swapped_blocks_and_inputs_on_the_host_is_the_same_run(
    run: Train, tmp_path: Path
) -> None:
    words = ("max_train_steps=4", "lr_warmup_steps=0", "base_model_precision=int8-quanto",
             "gradient_checkpointing=true")  # fmt: skip
    plain = run(*words, f"output_dir={tmp_path / 'plain'}")
    small = run(*words, f"output_dir={tmp_path / 'small'}", "blocks_to_swap=2",
                "gradient_checkpointing_backend=unsloth")  # fmt: skip
    assert plain.loss_after is not None
    assert (small.loss_before, small.loss_after) == (plain.loss_before, plain.loss_after)


@pytest.mark.parametrize("kind", ["standard", "dora", "lycoris"])
@pytest.mark.parametrize("scheme", ["no_change", "int8-quanto"])
def test_every_kind_of_adapter_works_on_swapped_blocks(
    kind: str, scheme: str, checkpointed: Plan
) -> None:
    """As many as asked are away, and the gradients are the same bits."""

    def state(swapped: int) -> Any:
        plan = decided(checkpointed, "memory", blocks_to_swap=swapped)
        plan = decided(plan, "precision", transformer=scheme)
        trained, algorithm = plan.trained, Lycoris(algo="lokr", linear_dim=4, linear_alpha=4)
        assert trained.lora is not None
        trained = replace(trained, lora=replace(trained.lora, dora=kind == "dora"),
                          lycoris=algorithm if kind == "lycoris" else None)  # fmt: skip
        return begin(replace(plan, trained=trained), ALONE_ON_CPU)

    still, swapped = state(0), state(2)
    heavy = [sum(p.numel() for p in b.parameters() if not p.requires_grad)
             for b in swapped.model.transformer_blocks]  # fmt: skip
    assert heavy[0] == heavy[1] == 0 < heavy[2]
    for s in (still, swapped):
        for i, p in enumerate(s.trainable):  # so that every part of it gets a gradient
            nn.init.normal_(p, std=0.05, generator=torch.Generator().manual_seed(i))
    same(gradients(swapped.model), gradients(still.model))


def test_one_memory_cannot_be_saved_by_moving_things_within_it(demo: Path) -> None:
    config = demo / "config" / "config.json"
    with pytest.raises(PlanError, match=r"blocks_to_swap=1.*share one memory"):
        prepare_run(config, (SWAP, ON), "m3-max")
    with pytest.raises(PlanError, match=r"unsloth.*host memory is the device's"):
        prepare_run(config, ("gradient_checkpointing_backend=unsloth", ON), "m3-max")
    plan = prepare_run(config, (SWAP, ON), "rtx4090").plan
    assert "untested on hardware" in plan.memory.blocks_to_swap.reason


def test_the_next_block_is_copied_before_one_runs_and_backwards_in_the_backward_pass() -> None:
    model, log = model_of(name="sd3.5-large"), [""]
    owner: dict[int, int] = {}  # address of a weight on the host -> number of its block
    checkpointing.checkpoint_blocks(model, 1)
    blocks = model.transformer_blocks
    frozen = [i for i, b in enumerate(blocks) for p in b.parameters() if not p.requires_grad]

    def to_host(weight: Tensor) -> Tensor:
        host = weight.clone()
        owner[host.data_ptr()] = frozen[len(owner)]
        return host

    def to_device(weight: Tensor) -> Tensor:
        if log[-1] != (line := f"copy {owner[weight.data_ptr()]}"):
            log.append(line)
        return weight.clone()

    offload.stream(model, len(blocks) - 1, to_host, to_device)
    for i, block in enumerate(blocks):
        block.norm1.register_forward_pre_hook(lambda *_, i=i: log.append(f"run {i}"))
    gradients(model)
    forward = ["copy 0", "copy 1", "run 0", "run 1", "run 2"]
    assert log[1:] == [*forward, "copy 1", "run 2", "copy 0", "run 1", "run 0"]


@pytest.mark.parametrize("skipped", [0, 1])
def test_a_skipped_block_is_not_mistaken_for_the_next_one(skipped: int) -> None:
    still, swapped = model_of().eval(), model_of().eval()
    offload.stream(swapped, 3, Tensor.clone, Tensor.clone)
    with torch.no_grad():
        for _ in range(2):
            asked = question() | {"skip_layers": [skipped]}
            assert torch.equal(swapped(**asked)[0], still(**asked)[0])


def test_inputs_come_back_one_block_ahead_and_shared_ones_stay() -> None:
    place = InputsOnHost(torch.device("cpu"), pin=False)
    blocks = [torch.full((2, 3), float(i), requires_grad=True) for i in range(3)]
    vector, outputs, kept = torch.ones(3), [], []
    for x in blocks:
        with place():
            outputs.append((x * vector).sin())  # saves the vector of all blocks, and its own input
            kept.append(place.inputs)
    assert [len(inputs.kept) for inputs in kept] == [2, 1, 1]
    assert [inputs.fetched for inputs in kept] == [False, False, False]
    for number, fetched in ((2, [False, True, True]), (1, [True, True, True])):
        outputs[number].sum().backward()
        assert [inputs.fetched for inputs in kept] == fetched
    outputs[0].sum().backward()
    for x in blocks:
        assert x.grad is not None and torch.equal(x.grad, (x.detach() * vector).cos() * vector)


class Device:
    """Follows the bytes it was asked to copy until they are freed."""

    def __init__(self) -> None:
        self.alive = self.most = self.copied = 0

    def copy(self, tensor: Tensor) -> Tensor:
        made = tensor.clone()
        size = made.numel() * made.element_size()
        weakref.finalize(made.untyped_storage(), self.freed, size)
        self.copied += size
        self.alive += size
        self.most = max(self.most, self.alive)
        return made

    def freed(self, size: int) -> None:
        self.alive -= size


def weight_bytes(block: Any) -> int:
    frozen = [p for p in block.parameters() if not p.requires_grad]
    return sum(part.numel() * part.element_size() for p in frozen for part in parts(p))
