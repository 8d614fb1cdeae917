"""`sd3tune cloud write`: each specification is what its engine reads, says what it assumes, and
asks for what the plan needs. tests/pure/test_cloud_engines.py asks the engines' own parsers."""

import os
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from sd3tune.backends.decide.chips import CHIPS
from sd3tune.cloud import card_names
from sd3tune.cloud.engines import ENGINES
from tests.cloud_jobs import CARDS, ROOT, Jobs, text_of
from tests.commands import exit_code
from tests.schemas import checker, schema

CLUSTER = ROOT / "examples" / "cluster"
# example -> the words of `sd3tune cloud write` that it was written with
EXAMPLES = {
    "skypilot-image.yaml": ("sky", "a100"),
    "skypilot-image-amd.yaml": ("sky", "mi300x"),
    "dstack-amd.yaml": ("dstack", "mi300x"),
    "kubernetes/one-node.yaml": ("kubernetes", "h100", "num_processes=4"),
    "kubernetes/one-node-amd.yaml": ("kubernetes", "mi300x", "num_processes=4"),
    "kubernetes/kueue.yaml": ("kueue", "h100"),
    "kubernetes/kubeflow.yaml": ("kubeflow", "h100"),
    "ray.yaml": ("ray", "h100"),
}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    return Jobs(tmp_path_factory.mktemp("cloud") / "my-project")


@pytest.fixture(scope="module")
def project(job: Jobs) -> Path:
    return job.config.parents[1]


def documents(text: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(text))


def refuse_unknown(engine: str, text: str) -> None:
    """Raises what the engine's schema raises."""
    for document in documents(text):
        if engine == "sky":
            checker("skypilot-task-0.14.1").validate(document)
        elif engine == "dstack":
            checker("dstack-task-0.22.5").validate(document)
        elif engine == "ray":
            checker("ray-2.60.0").validate(document)
        elif engine == "kubeflow":
            refuse_lost_fields(document)
        else:
            for version in ("1.31", "1.37"):
                kubernetes_validate.validate(document, version, strict=True)


def refuse_lost_fields(document: dict[str, Any]) -> None:
    """Kubeflow's own models drop what they do not know."""
    from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

    read = TrainerV1alpha1TrainJob.from_dict(document)
    assert read is not None and read.to_dict() == document


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_specification_is_what_its_engine_reads(engine: str, card: str, job: Jobs) -> None:
    refuse_unknown(engine, text_of(engine, job(card)))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_misspelt_field_would_be_found(engine: str, job: Jobs) -> None:
    first = documents(text_of(engine, job("a100")))[-1]
    first.get("spec", first)["nunber"] = 1
    refusals = (jsonschema.ValidationError, kubernetes_validate.ValidationError, AssertionError)
    with pytest.raises(refusals, match="nunber"):
        refuse_unknown(engine, yaml.safe_dump(first))


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("engine", ENGINES)
def test_the_head_says_what_is_assumed_and_how_it_starts(engine: str, card: str, job: Jobs) -> None:
    text = text_of(engine, job(card))
    head = text[: re.search(r"^[^#]", text, re.M).start()]  # type: ignore[union-attr]
    assert f"{engine}.yaml" in head and "# It assumes:" in head and "not run there by us" in head
    assert "stands for your own image" in head
    assert ("driver 580" in head) == (card == "a100")


@pytest.mark.parametrize("engine", ENGINES)
def test_four_processes_get_four_cards(engine: str, job: Jobs) -> None:
    text = text_of(engine, job("h100", "num_processes=4"))
    counts = {
        "sky": "H100: 4", "dstack": "count: 4", "kubernetes": "nvidia.com/gpu: 4",
        "kueue": "nvidia.com/gpu: 4", "kubeflow": "nvidia.com/gpu: 4",
        "ray": "--entrypoint-num-gpus 4",
    }  # fmt: skip
    assert counts[engine] in text and "num_processes=4" in text
    one, four = job("h100"), job("h100", "num_processes=4")
    assert four.cpus > one.cpus and four.host_gib > one.host_gib


def test_the_disk_holds_the_model_and_what_the_run_writes(job: Jobs) -> None:
    """SD3.5 large and its encoders are 27 GB in 16 bits; the images here are a few bytes."""
    small, large = job("a100"), job("a100", "lora_rank=512", "checkpoints_total_limit=50")
    assert 27e9 / 2**30 < small.disk_gib < large.disk_gib


def test_a_vendor_gets_its_image_and_its_cards(job: Jobs) -> None:
    cuda, rocm = job("a100"), job("mi300x")
    assert cuda.image.endswith(":cuda") and rocm.image.endswith(":rocm")
    assert "amd.com/gpu: 1" in text_of("kubernetes", rocm)
    assert "supplementalGroups" in text_of("kubeflow", rocm)
    assert "infra: kubernetes" in text_of("sky", rocm) and "infra" not in text_of("sky", cuda)
    (task,) = documents(text_of("dstack", rocm))
    assert task["resources"]["gpu"] == {"vendor": "amd", "name": "MI300X", "count": 1}


def test_sky_starts_again_after_codes_that_mean_again_and_never_after_errors(job: Jobs) -> None:
    """The codes of docs/guides/devices.md."""
    (task,) = documents(text_of("sky", job("a100")))
    again = task["resources"]["job_recovery"]["recover_on_exit_codes"]
    assert set(again) == {75, 129, 137, 143}
    batch = documents(text_of("kubernetes", job("a100")))[1]["spec"]
    evicted, failed = batch["podFailurePolicy"]["rules"]
    assert evicted["action"] == "Ignore"
    assert failed["action"] == "FailJob" and failed["onExitCodes"]["values"] == [1, 2]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_run_keeps_short_lived_checkpoints_unless_the_user_chose(engine: str, job: Jobs) -> None:
    assert "checkpointing_rolling_steps=50" in text_of(engine, job("a100"))
    own = text_of(engine, job("a100", "checkpointing_rolling_steps=7"))
    assert "checkpointing_rolling_steps=7" in own and "steps=50" not in own


def test_what_is_written_outlives_the_machine(job: Jobs) -> None:
    (task,) = documents(text_of("sky", job("a100"), store="my-bucket"))
    mounts = task["file_mounts"]
    assert mounts["/workspace/output"] == {"name": "my-bucket", "mode": "MOUNT_CACHED"}
    assert set(mounts) == {"/workspace/config", "/workspace/images", "/workspace/output"}
    assert all(Path(mounts[f"/workspace/{f}"]).is_dir() for f in ("config", "images"))
    (task,) = documents(text_of("dstack", job("a100"), store="mine"))
    assert task["volumes"] == [{"name": "mine", "path": "/workspace"}]
    assert "claimName: mine" in text_of("kubeflow", job("a100"), store="mine")


def test_a_queue_suspends_the_job_until_kueue_admits_it(job: Jobs) -> None:
    queued = documents(text_of("kueue", job("a100"), queue="team"))[1]
    assert queued["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "team"}
    assert queued["spec"]["suspend"] is True
    plain = documents(text_of("kubernetes", job("a100")))[1]
    assert "suspend" not in plain["spec"] and "labels" not in plain["metadata"]
    (trained,) = documents(text_of("kubeflow", job("a100"), queue="team"))
    assert trained["spec"]["suspend"] is True
    assert trained["metadata"]["labels"] == queued["metadata"]["labels"]


def test_on_demand_takes_no_spot_machine(job: Jobs) -> None:
    assert "use_spot: true" in text_of("sky", job("a100"))
    assert "use_spot" not in text_of("sky", job("a100"), on_demand=True)
    assert "spot_policy: on-demand" in text_of("dstack", job("a100"), on_demand=True)


@pytest.mark.parametrize("engine", ENGINES)
def test_no_secret_is_written(engine: str, job: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnop")
    assert "hf_abcdefghijklmnop" not in text_of(engine, job("a100"))


def test_every_name_of_a_card_is_one_that_its_engine_has() -> None:
    known, keys = card_names.CARD_NAMES, {c.key: c for c in CHIPS}
    cards, ids = schema("dstack-task-0.22.5")["cards"], schema("dstack-task-0.22.5")["device_ids"]
    sky = schema("skypilot-cards-0.14.1")
    # Names that only Kubernetes' labels give: any label is a name there.
    labels = {"MI210", "MI325X", "MI355X"}
    for key, names in known.items():
        assert set(names.sky) <= {*sky["canonical"], *sky["runpod"], *labels}, key
        assert not names.ray or names.ray in schema("ray-2.60.0")["accelerators"], key
        name, _, memory = names.dstack.partition(":")
        sold = [gb for each, gb in cards if each == name]
        marketed = keys[key].memory_bytes / 2**30
        if memory:
            assert float(memory.removesuffix("GB")) == marketed and marketed in sold, key
        elif name and keys[key].vendor == "cuda":
            assert sold == [marketed] or key == "h100-nvl", key
        if names.device_id:
            assert names.device_id in ids[name], key


def test_options_of_ray_job_submit_exist(job: Jobs) -> None:
    text = text_of("ray", job("a100"))
    (line,) = [line for line in text.splitlines() if "ray job submit" in line]
    given = [word for word in shlex.split(line.split(" -- ")[0]) if word.startswith("--")]
    assert given and set(given) <= set(schema("ray-2.60.0")["options"])


REFUSED = {
    "does not fit": (["dstack", "--card", "rtx3050", "blocks_to_swap=0",
                      "base_model_precision=no_change"], "needs about", ""),
    "no image": (["dstack", "--card", "m3-max", "optimizer=adamw",
                  "base_model_precision=no_change"],
                 "there is no container image for Apple M3 Max", "another --card"),
    "no such card there": (["ray", "--card", "rtx4090"], "Ray has no name for NVIDIA GeForce RTX",
                           "another engine"),
    "no such card at sky": (["sky", "--card", "rtx3060", "model_flavour=medium", "resolution=512",
                             "validation_resolution=512", "train_batch_size=1",
                             "pretrained_model_name_or_path=stabilityai/stable-diffusion-3.5-medium"],
                            "SkyPilot has no name for NVIDIA GeForce RTX 3060", "another engine"),
    "unknown card": (["sky", "--card", "z9000"], "z9000", "--on list"),
    "two machines": (["sky", "--card", "a100", "num_machines=2", "num_processes=2"],
                     "num_machines=2", "examples/cluster"),
    "typed path": (["sky", "--card", "a100", "output_dir=elsewhere"],
                   "a path on the command line", "configuration file"),
    "secret": (["sky", "--card", "a100", "validation_prompt=hf_abcdefghijklmnop"],
               "has a secret in it", "{env:NAME}"),
    "queue": (["sky", "--card", "a100", "--queue", "q"], "--queue does nothing", "leave"),
    "store": (["ray", "--card", "h100", "--store", "s"], "--store does nothing", "leave"),
    "on demand": (["kueue", "--card", "h100", "--on-demand"], "--on-demand does nothing", "leave"),
    "on demand amd": (["sky", "--card", "mi300x", "--on-demand"], "--on-demand does nothing",
                      "leave"),
    "engine": (["nomad", "--card", "a100"], "`nomad` is not an engine", "sky, dstack"),
    "slurm": (["slurm", "--card", "a100"], "needs no specification", "sky, dstack"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_started_is_refused_by_name(
    case: str,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (engine, *rest), message, hint = REFUSED[case]
    config = str(project / "config" / "config.json")
    assert exit_code(["cloud", "write", engine, config, *rest], monkeypatch) == 1
    out, err = capfd.readouterr()
    assert out == "" and message in " ".join(err.split()) and hint in " ".join(err.split())


def test_paths_outside_the_project_are_refused_all_at_once(
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    apart = tmp_path / "apart"
    shutil.copytree(project, apart)
    config = apart / "config" / "config.json"
    elsewhere = f'"output_dir": "{tmp_path / "elsewhere"}"'
    config.write_text(config.read_text().replace('"output_dir": "output"', elsewhere))
    datasets = apart / "config" / "multidatabackend.json"
    datasets.write_text(datasets.read_text().replace('"cache/vae"', f'"{tmp_path / "vae"}"'))
    assert exit_code(["cloud", "write", "sky", str(config), "--card", "a100"], monkeypatch) == 1
    err = " ".join(capfd.readouterr().err.split())
    assert (
        "output_dir: " in err and "cache_dir_vae: " in err and "outside the project folder" in err
    )


def test_a_file_is_written_once(
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run.yaml"
    config = str(project / "config" / "config.json")
    words = ["cloud", "write", "dstack", config, "--card", "mi300x", "-o", str(out)]
    assert exit_code([*words, "--image", "me/mine:1"], monkeypatch) == 0
    assert documents(out.read_text())[0]["image"] == "me/mine:1"
    assert (
        f"dstack apply -f {out}" in out.read_text()
        and "registry.example.com" not in out.read_text()
    )
    assert exit_code(words, monkeypatch) == 1
    assert "exists, and is not written over" in capfd.readouterr().err


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_what_cloud_write_writes(
    name: str, job: Jobs, project: Path, request: pytest.FixtureRequest
) -> None:
    """Written for a copy of examples/sd3.5-large named my-project, with 48 images."""
    engine, card, *words = EXAMPLES[name]
    text = text_of(engine, job(card, *words), f"examples/cluster/{name}")
    text = text.replace(Path(os.path.relpath(project)).as_posix(), "my-project")
    if request.config.getoption("--update-golden"):
        (CLUSTER / name).write_text(text)
    assert text == (CLUSTER / name).read_text(), "if it is meant: pytest --update-golden"
