"""Doctor, plan and trainer decide alike on a machine where a probe fails."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from sd3tune import devices, doctor
from sd3tune.backends.decide.admission import ProbeRunner
from sd3tune.backends.decide.probes import ProbeAnswer
from sd3tune.backends.observe import probing
from sd3tune.backends.observe.facts import Facts, Machine, TorchReport
from sd3tune.cli import doctor as doctor_command
from sd3tune.config.config import Config
from sd3tune.decision import Decision
from sd3tune.doctor.probe_findings import of_a_shape
from sd3tune.errors import HardwareError
from sd3tune.plan.compile_choice import ANYWAY, is_open
from sd3tune.plan.describe import decisions
from sd3tune.plan.plan import Plan
from sd3tune.prepare import prepare, prepare_run
from sd3tune.processes.environment import ALONE
from sd3tune.train.run import train
from tests import recordings
from tests.cpu.conftest import Project

LARGE = "stabilityai/stable-diffusion-3.5-large"
WRONG = "Wrong: the result is off by 3.1e-01 of its largest value"

Recorded = Callable[[str], tuple[Machine, TorchReport, Facts]]  # a machine of tests/machines


class Device:
    """Recorded answers of its probes, all right but those that are named; what was asked."""

    def __init__(self, *failing: str) -> None:
        self.failing = failing
        self.asked: list[str] = []

    def __call__(self, facts: Facts, names: Sequence[str]) -> Mapping[str, ProbeAnswer]:
        self.asked += names
        good, bad = ProbeAnswer(True, "error 1e-06", 0.1), ProbeAnswer(False, WRONG, 0.1)
        return {name: bad if name in self.failing else good for name in names}


def silent(facts: Facts, names: Sequence[str]) -> Mapping[str, ProbeAnswer]:
    raise AssertionError(f"the answers of {', '.join(names)} were on the disk")


def measuring(facts: Facts, names: Sequence[str]) -> Mapping[str, ProbeAnswer]:
    """Doctor knows no run, so what it has not asked is how fast kernels are at a run's shape."""
    assert all(map(of_a_shape, names)), f"doctor has the answers of {', '.join(names)}"
    return dict.fromkeys(names, ProbeAnswer(False, "no memory", 0.1))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorded:
    return lambda name: recordings.observed(recordings.load(name), tmp_path / "root", monkeypatch)


def planned(project: Project, facts: Facts, run: ProbeRunner, *words: str) -> Plan:
    return prepare(Config.load(project.write(), words), facts, run_probes=run).plan


@pytest.mark.parametrize(
    "name, failing, axis, value",
    [
        ("h100", "matmul_bf16", "mixed_precision", "fp16"),
        ("h100-mig", "attention_diffusers", "attention_mechanism", "native-math"),
        ("rtx4090", "autocast_bf16", "mixed_precision", "fp16"),
        ("t4", "matmul_fp16", "mixed_precision", "no"),
        ("two-gpus-one-visible", "attention_diffusers", "attention_mechanism", "native-math"),
        ("nvml-library-missing", "matmul_bf16", "base_model_default_dtype", "fp16"),
        ("mi300x-spx", "autocast_bf16", "grad_scaler", "on"),
        ("rx7900xtx", "attention_diffusers", "attention_mechanism", "native-math"),
        ("m3-max", "matmul_bf16", "base_model_default_dtype", "fp32"),
        ("cpu-only", "attention_diffusers", "attention_mechanism", "native-math"),
    ],
)
def test_one_failing_probe_changes_the_same_decision_for_doctor_plan_and_trainer(
    name: str,
    failing: str,
    axis: str,
    value: str,
    machine: Recorded,
    project: Project,
    tmp_path: Path,
) -> None:
    project.picture("a.png", 1), project.picture("b.png", 2)
    seen, torch, facts = machine(name)
    kept = tmp_path / "kept"
    anew = probing.on_this_machine(anew=True, folder=kept, execute=Device(failing))
    doctors = doctor.diagnose(seen, torch, facts, anew).decisions
    nothing_kept = probing.on_this_machine(folder=tmp_path / "none", execute=Device(failing))
    plans = planned(project, facts, nothing_kept)
    after_doctor = planned(project, facts, probing.on_this_machine(folder=kept, execute=measuring))
    trainers = planned(project, facts, probing.on_this_machine(folder=kept, execute=silent))
    assert doctors[axis].value == value and WRONG in said(doctors)
    assert set(doctors) > {"mixed_precision", "optimizer", "attention_mechanism"}
    for plan in (plans, after_doctor, trainers):
        agree(doctors, plan)


@pytest.mark.parametrize(
    "name",
    [
        "cuda-visible-empty",
        "cuda-visible-not-there",
        "nvidia-module-not-loaded",
        "rocm-wsl2",
        "one-of-two-lost",
        "h100-fabric-down",
        "t4-prohibited",
        "rx6700xt-no-kernels",
        "mig-beside-whole",
    ],
)
def test_what_doctor_fails_is_what_plan_and_train_refuse_in_the_same_words(
    name: str, machine: Recorded
) -> None:
    """Both observe with `devices.observe`, which ends in `usable`."""
    seen, torch, facts = machine(name)
    report = doctor.diagnose(seen, torch, facts, Device())
    failed = {f.fact: f.fix for f in report.findings if f.status == "FAIL"}
    with pytest.raises(HardwareError) as e:
        devices.usable(torch, facts, ALONE)
    refused = {p.message: p.hint for p in e.value.problems}
    assert refused.keys() == failed.keys()
    assert all(hint.startswith(failed[message]) for message, hint in refused.items())
    assert not [f for f in report.findings if f.id == "device.chosen"]


def test_of_two_unlike_cards_doctor_plan_and_trainer_decide_for_the_one_that_trains(
    machine: Recorded, project: Project, tmp_path: Path
) -> None:
    project.picture("a.png", 1), project.picture("b.png", 2)
    recorded = recordings.load("unlike-cards-fastest-first")
    assert [d["capability"] for d in recorded["torch"]["devices"]] == [[8, 9], [7, 5]]
    seen, torch, facts = machine("unlike-cards-fastest-first")
    report = doctor.diagnose(seen, torch, facts, Device())
    trainers = planned(project, devices.usable(torch, facts, ALONE), Device())
    path = tmp_path / "sent.json"
    path.write_text(doctor_command.document(report))
    there = prepare_run(project.write(), (), str(path)).plan
    assert report.decisions["mixed_precision"].value == "bf16"
    agree(report.decisions, trainers)
    agree(report.decisions, there)
    assert len(report.facts.devices) == 2
    reason = decisions(trainers)["device"].reason
    assert reason.startswith("NVIDIA GeForce RTX 4090 (card 1 of the driver, PCI 0000:41:00.0")
    assert "CUDA_DEVICE_ORDER=FASTEST_FIRST" in reason


def agree(doctors: Mapping[str, Decision[str]], plan: Plan) -> None:
    """Every decision of doctor's is the plan's, with its reasons. Whether a card compiles follows
    from the length of the run: doctor says that, and the plan has the arithmetic."""
    for axis, decision in doctors.items():
        plans = decisions(plan)[axis]
        if axis == "dynamo_backend" and is_open(decision):
            assert "the run is long enough" in decision.reason and plans.reason.endswith(ANYWAY)
            plans = replace(plans, reason=decision.reason)
        assert plans == decision, axis


def test_the_kernel_that_plan_measured_is_the_trainer_s(
    machine: Recorded, project: Project, tmp_path: Path
) -> None:
    project.picture("a.png", 1), project.picture("b.png", 2)
    seen, torch, facts = machine("h100")
    kept = tmp_path / "kept"
    anew = probing.on_this_machine(anew=True, folder=kept, execute=Device())
    doctors = doctor.diagnose(seen, torch, facts, anew).decisions

    def timed(facts: Facts, names: Sequence[str]) -> Mapping[str, ProbeAnswer]:
        right = measuring(facts, names)  # raises where doctor has asked
        return dict.fromkeys(right, ProbeAnswer(True, "diffusers 3 ms, cudnn 2 ms", 0.1))

    plans = planned(project, facts, probing.on_this_machine(folder=kept, execute=timed))
    trainers = planned(project, facts, probing.on_this_machine(folder=kept, execute=silent))
    assert plans == trainers and trainers.attention.training.value == "cudnn"
    assert trainers.facts.smoke["attention_cudnn"] == "ok"
    kernels = "attention_mechanism"
    assert doctors[kernels].value == "diffusers"
    agree({axis: d for axis, d in doctors.items() if axis != kernels}, trainers)


def test_doctor_names_the_measured_kernels_and_products_with_their_numbers(
    machine: Recorded, project: Project, tmp_path: Path
) -> None:
    """It knows no run: at the shape of SD3.5 large. The report carries what was measured."""
    words = {"attention_speed": "diffusers 3 ms, cudnn 2 ms",
             "product_speed": "no_change 2 ms, int8-w8a8 1 ms, fp8-w8a8 1.5 ms"}  # fmt: skip

    def timed(facts: Facts, names: Sequence[str]) -> Mapping[str, ProbeAnswer]:
        return {n: ProbeAnswer(True, words.get(n.partition(":")[0], "error 1e-06"), 0.1)
                for n in names}  # fmt: skip

    report = doctor.diagnose(*machine("h100"), timed)
    kernel, scheme = (report.decisions[a] for a in ("attention_mechanism", "base_model_precision"))
    assert kernel.value == "cudnn" and scheme.value == "no_change"
    at = "the shape of SD3.5 large at 1024 px: "
    assert f"the fastest at {at}cudnn 2 ms, diffusers 3 ms" in kernel.reason
    assert f"{at}int8-w8a8 1 ms, fp8-w8a8 1.5 ms, no_change 2 ms" in scheme.reason
    findings = {f.name for f in report.findings}
    assert "attention_speed:1x38x4327:bf16" in findings
    assert not [name for name in report.facts.smoke if of_a_shape(name)]

    def none(facts: Facts, names: Sequence[str]) -> Mapping[str, ProbeAnswer]:
        return {n: ProbeAnswer(not of_a_shape(n), "no memory", 0.1) for n in names}

    without = doctor.diagnose(*machine("h100"), none)
    assert without.decisions["attention_mechanism"].value == "diffusers" and without.can_train


def said(decisions: Mapping[str, Decision[str]]) -> str:
    """Every reason why something was not chosen."""
    reasons = (reason for d in decisions.values() for r in d.rejected for reason in r.reasons)
    return "\n".join(reasons)


def test_where_int8_and_bf16_fail_nobody_takes_them(
    machine: Recorded, project: Project, tmp_path: Path
) -> None:
    """SD3.5 large on an RTX 3060: it fits with quantised weights only. Doctor knew that its int8
    products are wrong, and the trainer, which had not asked, took them."""
    project.picture("a.png", 1)
    project.config |= {"pretrained_model_name_or_path": LARGE, "train_batch_size": 1}
    project.config["modulations"] = "device"  # else the weights fit as they are
    seen, torch, facts = machine("nvml-library-missing")
    assert facts.weakest.name == "NVIDIA GeForce RTX 3060"
    right = planned(project, facts, Device())
    assert right.precision.transformer.value == "int8-quanto"
    broken, kept = ("linear_int8-quanto", "matmul_bf16"), tmp_path / "kept"
    anew = probing.on_this_machine(anew=True, folder=kept, execute=Device(*broken))
    report = doctor.diagnose(seen, torch, facts, anew)
    fresh = probing.on_this_machine(folder=tmp_path / "none", execute=Device(*broken))
    plans = planned(project, facts, fresh)
    planned(project, facts, probing.on_this_machine(folder=kept, execute=measuring))
    trainers = planned(project, facts, probing.on_this_machine(folder=kept, execute=silent))
    for plan in (plans, trainers):
        assert plan.precision.transformer.value == "nf4-bnb"
        assert decisions(plan)["mixed_precision"] == report.decisions["mixed_precision"]
        (int8,) = (r for r in plan.precision.transformer.rejected
                   if r.name == "int8-quanto")  # fmt: skip
        assert WRONG in int8.reasons[0]
    assert plans == trainers
    assert report.decisions["mixed_precision"].value == "fp16"
    level, why = report.capabilities["base_model_precision"]["int8-quanto"]
    assert level == "storage" and WRONG in why[0]


def test_the_option_that_is_taken_after_a_failure_is_probed_too(
    machine: Recorded, project: Project
) -> None:
    project.picture("a.png", 1), project.picture("b.png", 2)
    *_, facts = machine("cpu-only")
    device = Device("attention_diffusers")
    assert planned(project, facts, device).attention.training.value == "native-math"
    assert device.asked.index("attention_diffusers") < device.asked.index("attention_native-math")
    both = Device("attention_diffusers", "attention_native-math")
    assert planned(project, facts, both).attention.training.value == "sliced"
    assert "attention_sliced" in both.asked and "attention_sliced" not in device.asked


def test_only_probes_that_decide_or_time_are_run_where_nothing_is_quantised(
    machine: Recorded,
    project: Project,
) -> None:
    project.picture("a.png", 1), project.picture("b.png", 2)
    *_, facts = machine("cpu-only")
    device = Device()
    plan = planned(project, facts, device)
    computed = {name for name in device.asked if not name.startswith("import_")}
    assert computed == {"matmul_fp32", "optimizer_adamw", "attention_diffusers", "rates"}
    assert set(plan.facts.smoke) == set(device.asked) - {"rates"}, "no decision rests on it"


def test_a_device_that_multiplies_wrongly_is_refused_with_doctor_s_sentence(
    machine: Recorded,
    project: Project,
) -> None:
    project.picture("a.png", 1), project.picture("b.png", 2)
    seen, torch, facts = machine("h100")
    report = doctor.diagnose(seen, torch, facts, Device("matmul_fp32"))
    (fail,) = (f for f in report.findings if f.status == "FAIL")
    with pytest.raises(HardwareError) as e:
        planned(project, facts, Device("matmul_fp32"))
    assert str(e.value) == fail.fact and e.value.hint.startswith(fail.fix)
    assert "matmul_fp32 failed on NVIDIA H100" in fail.fact and not report.can_train


def test_what_a_report_says_of_its_probes_is_what_a_plan_for_it_decides_from(
    machine: Recorded,
    project: Project,
    tmp_path: Path,
) -> None:
    project.picture("a.png", 1), project.picture("b.png", 2)
    report = doctor.diagnose(*machine("rtx4090"), Device("matmul_bf16", "attention_native-flash"))
    path = tmp_path / "sent.json"
    path.write_text(doctor_command.document(report))
    plan = prepare_run(project.write(), (), str(path)).plan
    assert plan.precision.autocast == report.decisions["mixed_precision"]
    assert plan.facts.origin == "recorded"
    assert "attention_native-flash" in json.loads(path.read_text())["facts"]["smoke"]


@pytest.mark.slow
def test_broken_files_that_change_the_plan_are_said_and_recorded(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """The batch size was left open and shown as 4: four images fill it, and three do not."""
    for i in range(4):
        project.picture(f"{i}.png", i)
    whole = (project.images / "3.png").read_bytes()
    (project.images / "3.png").write_bytes(whole[:300])  # behind its header
    project.config["train_batch_size"] = None
    shown = project.prepare()
    assert shown.plan.batch_size == 4
    outcome = train(shown, [])
    line = "train_batch_size 4 -> 3: "
    assert f"plan changed: {line}" in capsys.readouterr().err
    recorded = json.loads((outcome.output / "plan_changes.json").read_text())
    assert [entry[: len(line)] for entry in recorded] == [line]
    assert "GiB" in recorded[0], "with the new decision's reason"
    (project.images / "3.png").write_bytes(whole)
    train(project.prepare("max_train_steps=3"), [])
    assert not (outcome.output / "plan_changes.json").exists()
