"""Pictures of a run: when they are drawn, of which weights, and that they change nothing."""

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sd3tune import backends
from sd3tune.config.files.prompts import Prompt, load_prompts
from sd3tune.encode.caches import Caches
from sd3tune.encode.everything import filled
from sd3tune.formats.picture_files import recipe_in
from sd3tune.prepare import Prepared
from sd3tune.processes.world import ALONE_ON_CPU
from sd3tune.report.events import Event, PictureDrawn, SheetDrawn
from sd3tune.report.stream import Stream
from sd3tune.train.begin import begin
from sd3tune.train.validation import Validated, Validations
from tests.cpu.conftest import Project
from tests.image_folders import shown
from tests.this_machine import prepared_here

WORDS = ("lr_warmup_steps=0", "max_train_steps=6", "train_batch_size=2",
         "validation_resolution=64x64", "validation_num_inference_steps=2",
         "user_prompt_library=none", "validation_prompt=a red cup")  # fmt: skip
BASE, CUP = "benchmarks/base_model", "validation_0_64x64.png"


@dataclass
class Collected:
    """A sink that keeps what it gets."""

    name: str = "collected"
    events: list[Event] = field(default_factory=list)

    def receive(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None:
        pass

    def pictures(self) -> list[tuple[str, int, str]]:
        return [(e.kind, e.step, e.shortname) for e in self.events if isinstance(e, PictureDrawn)]


@dataclass
class Seen:
    """The validations of a run that is about to begin, and what they told."""

    validations: Validations
    sink: Collected
    validated: list[Validated]

    @property
    def output(self) -> Path:
        return self.validations.plan.output_dir

    def pixels(self, name: str) -> np.ndarray:
        return np.asarray(shown(self.output / name)).astype(int)

    def train(self, step: int, seed: int = 0) -> None:
        """Stands in for training: the trained values are moved, and the step is counted."""
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in self.validations.state.trainable:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
        self.validations.state.step = step


Make = Callable[..., Seen]


@pytest.fixture(scope="module")
def encoded(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Caches]:
    """The caches of the demo with other settings."""

    def make(output: Path, *words: str) -> Caches:
        words = (f"output_dir={output}", *WORDS, *words)
        prepared: Prepared = prepared_here(demo / "config" / "config.json", *words)
        prompts = load_prompts(prepared.config)
        vendor = backends.module(prepared.plan.facts.vendor)
        return filled(prepared, prompts, torch.device("cpu"), vendor, ALONE_ON_CPU)

    return make


@pytest.fixture
def seen(encoded: Callable[..., Caches], tmp_path: Path) -> Make:
    def make(*words: str, prompts: tuple[Prompt, ...] | None = None) -> Seen:
        caches = encoded(tmp_path / "output", *words)
        state = begin(caches.prepared.plan, ALONE_ON_CPU)
        sink = Collected()
        validated: list[Validated] = []
        own = load_prompts(caches.prepared.config) if prompts is None else prompts
        made = Validations(
            state, caches, own, ALONE_ON_CPU, Stream([sink]), observers=[validated.append]
        )
        return Seen(made, sink, validated)

    return make


def never() -> bool:
    return False


@pytest.mark.slow
def test_the_base_model_is_drawn_once_and_without_the_adapter(seen: Make) -> None:
    run = seen("validation_disable_unconditional=true")
    run.validations.begin(never)
    assert run.sink.pictures() == [("base", 0, "validation")]
    base = run.pixels(f"{BASE}/{CUP}")
    run.train(3)
    run.validations.begin(never)
    assert len(run.sink.pictures()) == 1, "it is there already"
    (run.output / BASE / CUP).unlink()
    run.validations.begin(never)
    assert np.array_equal(run.pixels(f"{BASE}/{CUP}"), base), "the adapter is switched off"
    run.validations.draw()
    assert not np.array_equal(run.pixels(f"validation_images/step_3_{CUP}"), base)
    assert [v.kind for v in run.validated] == ["base", "base", "during"]
    ((picture, image),) = run.validated[-1].drawn
    assert picture.prompt == "a red cup" and image.size == (64, 64)


@pytest.mark.slow
def test_each_prompt_has_its_strength_and_each_validation_its_seeds(seen: Make) -> None:
    words = ("validation_randomize=true", "num_validation_images=2", "validation_seed=7",
             "validation_lycoris_strength=0.5", "validation_noise_scheduler=unipc",
             "validation_image_format=webp", "validation_image_quality=100")  # fmt: skip
    text = "a red cup"
    run = seen(*words, prompts=(Prompt("off", text, 0.0), Prompt("half", text),
                                Prompt("whole", text, 1.0)))  # fmt: skip
    run.train(2)
    files = run.validations.draw()
    names = [f"step_2_{name}_{i}_64x64.webp" for name in ("off", "half", "whole") for i in (0, 1)]
    assert [p.name for p in files] == names
    recipes = [recipe_in(p) for p in files]
    assert [r.adapters[0].strength for r in recipes] == [0, 0, 0.5, 0.5, 1, 1]
    assert {r.sampler for r in recipes} == {"unipc"}
    assert recipes[1].seed == recipes[0].seed + 1 == recipes[3].seed
    off, half, whole = (run.pixels(f"validation_images/step_2_{name}_0_64x64.webp")
                        for name in ("off", "half", "whole"))  # fmt: skip
    near, far = np.abs(half - off).mean(), np.abs(whole - off).mean()
    assert 0.1 < near < far
    run.validations.state.step = 3
    later = recipe_in(run.validations.draw()[0]).seed
    assert later not in (recipes[0].seed, 7)


def test_pictures_are_due_by_steps_and_epochs_and_not_before_they_may(seen: Make) -> None:
    run = seen("validation_step_interval=2", "validate_after_step=3", "max_train_steps=30",
               "validation_epoch_interval=2", "validate_after_epoch=1")  # fmt: skip
    plan, schedule = run.validations.plan, run.validations.caches.prepared.schedule
    per_epoch = schedule.steps_of(1)
    (chore,) = run.validations.chores(schedule)
    state = run.validations.state
    due = set()
    for step in range(1, 31):
        state.step, state.position = step, step * plan.batches_per_step
        if chore.due(state):
            due.add(step)
    by_step = {s for s in range(2, 30, 2) if s >= max(3, per_epoch)}
    assert due == by_step | set(range(2 * per_epoch, 30, 2 * per_epoch))
    assert 2 not in due and 30 not in due and due


@pytest.mark.slow
def test_sheets_show_the_prompts_over_the_steps_and_base_beside_result(seen: Make) -> None:
    run = seen("use_ema=true", "validation_on_startup=true", "validation_prompt_library=true",
               "validation_num_inference_steps=1")  # fmt: skip
    assert len(run.validations.prompts) > 12
    run.validations.prompts = run.validations.prompts[:2]
    run.validations.begin(never)
    kinds = [kind for kind, *_ in run.sink.pictures()]
    assert kinds == ["base"] * 2 + ["during"] * 4, "the last weights and their average"
    run.train(6)
    pictures, sheet = run.validations.end()
    assert {p.parent.name for p in pictures} == {"validation_images", "ema"}
    sheets = [(e.kind, e.path.relative_to(run.output / "validation_images"))
              for e in run.sink.events if isinstance(e, SheetDrawn)]  # fmt: skip
    grids = [("grid", Path("grid.png")), ("grid", Path("ema/grid.png"))]
    assert sheets == [*grids, *grids, ("before_after", Path("before_after.png"))]
    assert sheet == run.output / "validation_images" / "before_after.png"
    grid, pair = shown(run.output / "validation_images/grid.png"), shown(sheet)
    assert grid.width - pair.width == 136, "three columns and two, of 128 pixels and a gap"
    assert run.validations.plan.pictures.times.on_startup


def test_a_run_that_continues_shows_its_earlier_steps(seen: Make) -> None:
    words = ("validation_disable_unconditional=true", "disable_benchmark=true",
             "validation_num_inference_steps=1")  # fmt: skip
    run = seen(*words)
    run.validations.begin(never)
    assert run.sink.pictures() == [], "disable_benchmark"
    run.train(2)
    run.validations.draw()
    again = Validations(run.validations.state, run.validations.caches, run.validations.prompts,
                        ALONE_ON_CPU, Stream(()))  # fmt: skip
    assert again.begun == 2
    run.train(4)
    again.draw()
    assert shown(run.output / "validation_images" / "grid.png").width == 24 + 2 * 128 + 8


def generators() -> tuple[object, ...]:
    """The state of every random generator."""
    arrays = np.random.get_state(legacy=False)["state"]["key"].tolist()
    return random.getstate(), arrays, torch.get_rng_state().tolist()


def broken(run: Seen, how: str, tmp_path: Path) -> None:
    """Spoils the next validation by real means."""
    if how == "folder":
        run.output.mkdir()
        (run.output / "validation_images").write_text("a file in the place of the folder")
        return
    folder = tmp_path / "model"
    (folder / "vae").mkdir(parents=True)
    source = run.validations.plan.model.source
    for file in (Path(source.vae) / "vae").iterdir():
        (folder / "vae" / file.name).write_bytes(file.read_bytes()[:200])
    caches = run.validations.caches
    plan = replace(caches.prepared.plan, model=replace(
        caches.prepared.plan.model, source=replace(source, vae=str(folder))))  # fmt: skip
    run.validations.caches = replace(caches, prepared=replace(caches.prepared, plan=plan))


@pytest.mark.parametrize(
    ("how", "reason"), [("folder", "a file has the name of the folder"), ("vae", "load the vae")]
)
def test_a_validation_that_fails_is_reported_once_and_leaves_everything_as_it_was(
    how: str, reason: str, seen: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = seen("validation_disable_unconditional=true")
    model = run.validations.state.model.train()
    processors = model.attn_processors
    broken(run, how, tmp_path)
    before = generators()
    capsys.readouterr()
    assert run.validations.draw() == () and run.validations.end() == ((), None)
    assert generators() == before
    assert model.training and model.attn_processors == processors and torch.is_grad_enabled()
    assert all(p.grad is None for p in run.validations.state.trainable)
    log = " ".join(capsys.readouterr().err.split())
    assert log.count("the validation at step 0 failed, and the run goes on: ") == 1
    assert reason in log and log.count("hint: ") == 1
    assert log.count("the validation at step 0 failed as before; the run goes on") == 1


def test_an_observer_that_fails_costs_neither_pictures_nor_the_run(seen: Make) -> None:
    run = seen("validation_disable_unconditional=true", "validation_num_inference_steps=1")

    def fails(validated: Validated) -> None:
        raise OSError("no network")

    run.validations.observers = [fails, run.validated.append]
    assert len(run.validations.draw()) == 1 and len(run.validated) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "word",
    ["lora_init_type=pissa", "lora_init_type=olora", "use_dora=true", "lora_type=lycoris",
     "model_type=full", "base_model_precision=int8-quanto"],
)  # fmt: skip
def test_the_base_model_is_drawn_without_any_kind_of_adapter(
    word: str, seen: Make, tmp_path: Path
) -> None:
    """Of the quantised model where weights are quantised: that is what trains."""
    words = ["validation_disable_unconditional=true"]
    quantised = [word] if "precision" in word else []
    plain = seen(*words, *quantised, f"output_dir={tmp_path / 'plain'}")
    if word == "lora_type=lycoris":
        (tmp_path / "lokr.json").write_text(LOKR)
        words += [f"lycoris_config={tmp_path / 'lokr.json'}"]
    run = seen(*words, word)
    for each in (plain, run):
        each.validations.begin(never)
    want = plain.pixels(f"{BASE}/{CUP}")
    assert np.abs(run.pixels(f"{BASE}/{CUP}") - want).max() <= 2
    run.train(4)
    (run.output / BASE / CUP).unlink()
    run.validations.begin(never)
    if word == "model_type=full":
        assert not (run.output / BASE / CUP).exists(), "its weights are gone"
    else:
        assert np.abs(run.pixels(f"{BASE}/{CUP}") - want).max() <= 2
    run.validations.draw()
    assert np.abs(run.pixels(f"validation_images/step_4_{CUP}") - want).max() > 2


LOKR = """{"algo": "lokr", "multiplier": 1.0, "linear_dim": 4, "linear_alpha": 4,
           "apply_preset": {"target_module": ["Attention"]}}"""
RUN = ("validation_disable=false", "validation_prompt=a red cup", "validation_resolution=64x64",
       "validation_num_inference_steps=2", "validation_step_interval=2", "lr_warmup_steps=0",
       "lora_dropout=0.2", "max_train_steps=6", "validation_randomize=true",
       "validation_on_startup=true")  # fmt: skip


@pytest.mark.slow
def test_losses_noise_and_result_are_the_same_with_pictures_without_and_with_failing_ones(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second validation of the third run finds its VAE damaged."""
    from sd3tune.train.run import train

    for i in range(4):
        project.picture(f"{i}.png", i)
    model = project.root / "model"
    shutil.copytree(project.config["pretrained_model_name_or_path"], model)
    project.config["pretrained_model_name_or_path"] = str(model)
    ran = {}
    for name, words in {"without": ("validation_disable=true",), "with": (), "failing": ()}.items():
        output = project.root / name
        made = project.prepare(*RUN, *words, f"output_dir={output}")
        first = output / "validation_images" / f"step_2_{CUP}"
        if name == "failing":
            damage = threading.Thread(target=damage_when, args=(first, model / "vae"))
            damage.start()
        outcome = train(made, load_prompts(made.config))
        rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
        assert outcome.adapter is not None
        ran[name] = (
            [(r["loss"], r["grad_norm"]) for r in rows], outcome.noise, outcome.loss_after,
            load_file(outcome.adapter),
        )  # fmt: skip
        assert bool(outcome.pictures) == (name == "with")
    damage.join()
    assert (output / "validation_images" / f"step_2_{CUP}").exists()
    log = capsys.readouterr().err
    assert log.count("failed, and the run goes on: ") == 1 and "failed as before" in log
    for name in ("with", "failing"):
        assert ran[name][:3] == ran["without"][:3], name
        for key, tensor in ran["without"][3].items():
            assert torch.equal(tensor, ran[name][3][key])


def damage_when(path: Path, vae: Path) -> None:
    """Cuts the weights of the VAE off as soon as a picture is there."""
    end = time.monotonic() + 300
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.005)
    for file in vae.glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:200])


@pytest.mark.slow
@pytest.mark.parametrize("split", ["fsdp_enable=true", "validation_multigpu=single-gpu",
                                   "validation_multigpu=batch-parallel"])  # fmt: skip
def test_two_processes_draw_the_pictures_of_one(
    split: str, project: Project, tmp_path: Path
) -> None:
    from sd3tune.train.run import train

    for i in range(4):
        project.picture(f"{i}.png", i)
    words = (*RUN, "train_batch_size=1", "max_train_steps=1", "validation_randomize=false")
    alone = project.prepare(*words, f"output_dir={tmp_path / 'one'}")
    train(alone, load_prompts(alone.config))
    two = [*words, split, "num_processes=2", f"output_dir={tmp_path / 'two'}"]
    ran = subprocess.run(
        [sys.executable, "-m", "sd3tune", "train", str(project.write()), *two],
        capture_output=True, text=True, env=dict(os.environ),
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "failed" not in ran.stderr
    for folder, name in ((BASE, CUP), (BASE, CUP.replace("validation", "unconditional"))):
        one, both = (shown(tmp_path / n / folder / name) for n in ("one", "two"))
        assert np.abs(np.asarray(one).astype(int) - np.asarray(both)).max() <= 1
    names = [sorted(p.name for p in (tmp_path / n / "validation_images").iterdir())
             for n in ("one", "two")]  # fmt: skip
    assert names[0] == names[1] and "before_after.png" in names[0]
