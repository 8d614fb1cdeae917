"""`sd3tune doctor` as people and programs run it."""

import json
import os
import resource
import subprocess
import sys

import pytest


def doctor(*words: str, **environ: str) -> tuple[int, str, float]:
    """Exit code, stdout, and seconds of a processor, which do not depend on what else runs."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "sd3tune", "doctor", *words],
        capture_output=True,
        text=True,
        env=os.environ | environ,
    )
    assert "Traceback" not in done.stderr, done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return done.returncode, done.stdout, used


@pytest.mark.slow
def test_this_machine_can_train_and_every_complaint_has_a_fix() -> None:
    code, out, seconds = doctor("--json", SD3TUNE_BACKEND="cpu")
    report = json.loads(out)
    assert code == 0 and report["can_train"] and report["schema"] == 1
    for finding in report["findings"]:
        assert set(finding) == {"id", "status", "name", "fact", "source", "fix"}
        assert finding["status"] in ("ok", "warn", "FAIL", "skip")
        assert (finding["status"] in ("warn", "FAIL")) == bool(finding["fix"]), finding
    assert report["decisions"]["mixed_precision"]["value"] == "no"
    assert report["facts"]["smoke"]["attention_diffusers"] == "ok"
    assert report["capabilities"]["base_model_precision"]["int8-quanto"]["level"] == "storage"
    assert seconds < 60  # measured 15 s


def test_a_look_takes_under_a_second_and_starts_no_torch() -> None:
    assert min(doctor("--quick")[2] for _ in range(3)) < 1.5
    report = json.loads(doctor("--quick", "--json")[1])
    assert report["torch"]["imported"] is False and report["torch"]["version"]


@pytest.mark.parametrize("chip", ["mi300x", "m1", "m3-max", "rtx4090", "t4", "h200", "rx7900xtx"])
def test_a_catalogued_chip_is_marked_as_not_measured(chip: str) -> None:
    code, out, _ = doctor("--on", chip, "--json")
    report = json.loads(out)
    assert code == 0 and report["measured"] is False and report["chip"] == chip
    assert "not measured" in json.dumps(report["findings"])


def test_an_unknown_backend_is_two_lines() -> None:
    done = subprocess.run([sys.executable, "-m", "sd3tune", "doctor"], capture_output=True,
                          text=True, env=os.environ | {"SD3TUNE_BACKEND": "tpu"})  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "error: SD3TUNE_BACKEND=tpu is not a backend"


def test_words_are_ok_warn_fail_or_skip() -> None:
    _, out, _ = doctor("--quick")
    head = out.split("\n\n")[0].splitlines()
    assert all(line[:4] in ("ok  ", "warn", "FAIL", "skip", "    ") for line in head), head


def test_a_broken_pytorch_is_a_finding_and_two_lines_for_train(demo, tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text('raise OSError("libcudart.so.13: not found")')
    code, out, _ = doctor("--json", PYTHONPATH=str(tmp_path))
    (finding,) = (f for f in json.loads(out)["findings"] if f["id"] == "torch.import")
    assert code == 1 and finding["status"] == "FAIL" and "libcudart.so.13" in finding["fact"]
    command = [sys.executable, "-m", "sd3tune", "train", str(demo / "config" / "config.json")]
    environ = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environ)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 2
    assert "libcudart.so.13" in done.stderr and "hint: " in done.stderr


@pytest.mark.slow
def test_a_report_is_written_beside_the_findings_and_can_be_planned_for(demo, tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "mine.json"
    secrets = {"HF_TOKEN": "hf_plantedplantedplanted", "USER": "mariella", "HOSTNAME": "atelier9"}
    command = [sys.executable, "-m", "sd3tune", "doctor", "--report", str(path), "--json"]
    environ = os.environ | secrets | {"SD3TUNE_BACKEND": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tool"] == "sd3tune doctor", "stdout is the document, as ever"
    assert "attach it to an issue of the project" in done.stderr
    text = path.read_text()
    assert not [s for s in (*secrets.values(), str(tmp_path), str(demo)) if s in text]
    written = json.loads(text)
    assert "PyTorch built with" in written["report"]["torch"]["config"]
    assert written["facts"]["smoke"]["attention_diffusers"] == "ok"
    config = str(demo / "config" / "config.json")
    plan = [sys.executable, "-m", "sd3tune", "plan", config, "--on", str(path), "--json"]
    made = subprocess.run(plan, capture_output=True, text=True, env=environ)
    assert made.returncode == 0, made.stderr
    assert "recorded" in json.loads(made.stdout)["decisions"]["device"]["reason"]


def test_a_report_of_a_chip_in_the_catalogue_is_refused() -> None:
    command = [sys.executable, "-m", "sd3tune", "doctor", "--on", "m1", "--report"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith(
        "error: `--report` describes this machine"
    )


@pytest.mark.slow
def test_a_package_that_does_not_load_fails_doctor_and_refuses_plan_and_train_alike(  # type: ignore[no-untyped-def]
    demo, tmp_path
) -> None:
    """As on a rented card: a dependency of a dependency was missing."""
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "__init__.py").write_text("import httpx2_of_nobody")
    environ = {"PYTHONPATH": str(tmp_path), "SD3TUNE_BACKEND": "cpu"}
    code, out, _ = doctor("--json", "--no-device", **environ)
    failures = [f for f in json.loads(out)["findings"] if f["status"] == "FAIL"]
    assert code == 1 and "software.peft" in [f["id"] for f in failures]
    for failed in failures:  # diffusers' pipelines import peft too
        assert "cannot be imported: ModuleNotFoundError: No module named" in failed["fact"]
        assert failed["fix"] == "pip install 'httpx2_of_nobody'"
    for command in ("plan", "train"):
        done = subprocess.run(
            [sys.executable, "-m", "sd3tune", command, str(demo / "config" / "config.json")],
            capture_output=True, text=True, env=os.environ | environ,
        )  # fmt: skip
        assert done.returncode == 1 and f"error: {failures[0]['fact']}\n" in done.stderr
        assert f"hint: {failures[0]['fix']}\n" in done.stderr
