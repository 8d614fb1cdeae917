"""The sources that know about a vendor's cards: each fails alone and in its own words."""

import ctypes
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from sd3tune.backends.observe import (
    amd_smi_program,
    card_sources,
    child,
    cuda_devices,
    kfd,
    libcuda,
    machine,
    nvidia_files,
    nvidia_smi,
    system,
    this_machine,
)
from sd3tune.backends.observe.facts import Arch, Gpu, Problem, Survey, to_json
from tests.fakes import driver
from tests.nobody import as_nobody

UUID = "GPU-7b1e0c44-9f00-4d57-a3cb-62f1f8a1b0c9"
ROW = (f"0, NVIDIA A10, {UUID}, 00000000:01:00.0, 535.183.01, 23028, 4, 8.6, 41, 150, 150, 0, 4, "
       "4, 16, 16, Default, [N/A]")  # fmt: skip
SMI = f'case "$*" in *query*) echo "{ROW}";; *) echo "CUDA Version: 12.2";; esac'
BOUND = "class NVMLError(Exception): pass\nclass NVMLLibraryMismatchError(Exception): pass\n"
STARTS = f"{BOUND}def nvmlInit(): pass\n"


def plant(folder: Path, name: str, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program first on PATH."""
    program = folder / "bin" / name
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")


@pytest.fixture
def in_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Survey]:
    """Asks one source in a real child, which imports a planted module of that name."""

    def ask(source: str, module: str, body: str, seconds: float = 20.0) -> Survey:
        (tmp_path / f"{module}.py").write_text(body)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        answer = card_sources.ask_in_child(source, tmp_path, seconds)
        silent = child.Answer(data=to_json(Survey("cuda")))
        vendor = card_sources.SOURCES[source].vendor
        return card_sources.survey(
            vendor, tmp_path, lambda name, _: answer if name == source else silent
        )

    return ask


@pytest.mark.parametrize(
    "body, problem, words",
    [
        ("import time; time.sleep(600)", "nvml-hangs", "NVML hangs: no answer in 1 s"),
        ("import os; os.abort()", "nvml-crashed", "asking NVML crashed: killed by SIGABRT"),
        ("import os; os._exit(0)", "nvml-failed", "asking NVML failed: exit code 0 and no answer"),
        ("import no_such", "nvml-broken", "ModuleNotFoundError: No module named 'no_such'"),
        ("import os; os.write(1, b'\\xff' * 9); x = ", "nvml-broken", "SyntaxError"),
        (f"{BOUND}def nvmlInit(): raise NVMLLibraryMismatchError('Unversioned function')",
         "nvml-broken", "NVMLLibraryMismatchError: Unversioned function"),
        (f"{BOUND}def nvmlInit(): b'\\xff'.decode()", "nvml-broken", "UnicodeDecodeError"),
        (f"{STARTS}def nvmlSystemGetDriverVersion(): b'\\xff'.decode()",
         "nvml-garbage", "nvmlSystemGetDriverVersion is not UTF-8"),
        (f"{STARTS}def nvmlSystemGetDriverVersion(): raise NVMLLibraryMismatchError('x')",
         "nvml-age", "nvmlSystemGetDriverVersion (NVMLLibraryMismatchError)"),
        (f"{STARTS}def nvmlDeviceGetCount(): return 2 ** 31 - 1", "nvml-garbage", "2147483647"),
        (f"{STARTS}def nvmlSystemGetDriverVersion(): return 'Failed to open'",
         "nvml-implausible", "driver 'Failed to open'"),
        ("x = 1", "nvml-broken", "the module pynvml is another package's"),
    ],
)  # fmt: skip
def test_what_nvml_does_is_a_finding_in_its_own_words(
    body: str, problem: str, words: str, in_child: Callable[..., Survey]
) -> None:
    (found,) = in_child("nvml", "pynvml", body, 1.0 if "hangs" in problem else 20.0).problems
    assert found.id == f"nvidia.{problem}" and words in found.message
    assert ("hang in the same way" in found.fix) == problem.endswith("hangs")


@pytest.mark.parametrize(
    "body, problem",
    [
        ("import time; time.sleep(600)", "amd.amdsmi-hangs"),
        ("import os; os.kill(os.getpid(), 11)", "amd.amdsmi-crashed"),
        ("raise KeyError('libamd_smi.so')", "amd.amdsmi-broken"),
        ("raise OSError('libamd_smi.so: file too short')", "amd.amdsmi-broken"),
        ("def amdsmi_init(): b'\\xff'.decode()", "amd.amdsmi-init"),
        ("def amdsmi_init(): pass\ndef amdsmi_get_processor_handles(): b'\\xff'.decode()",
         "amd.amdsmi-garbage"),
    ],
)  # fmt: skip
def test_what_amdsmi_does_is_a_finding_in_its_own_words(
    body: str, problem: str, in_child: Callable[..., Survey]
) -> None:
    seen = in_child("amdsmi", "amdsmi", body, 1.0 if "hangs" in problem else 20.0)
    assert problem in [p.id for p in seen.problems]


@pytest.mark.parametrize(
    "source, library", [("nvml", "libnvidia-ml.so.1"), ("libcuda", "libcuda.so.1")]
)
def test_a_library_that_is_cut_off_is_not_called_missing(
    source: str, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / library).write_bytes(b"\x7fELF\x02")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    data = card_sources.ask_in_child(source, tmp_path).data
    assert data is not None and "is damaged or cut off" in data["problems"][0]["message"]


@pytest.mark.parametrize(
    "body, problem, words",
    [
        ("sleep 600", "smi-hangs", "did not answer in 0.4 s"),
        ("sleep 600 & exit 0", "smi-hangs", "did not answer in 0.4 s"),  # holds the output open
        ("kill -SEGV $$", "smi-crashed", "was killed by SIGSEGV"),
        ("exit 3", "smi-failed", "failed with exit code 3"),
        ("echo rubbish", "smi-garbage", "prints rubbish in place of its table: `rubbish`"),
        ("exit 0", "smi-garbage", "prints rubbish in place of its table: nothing"),
        ("yes", "smi-garbage", "does not stop printing"),
        ("printf '\\377\\376\\n'", "smi-garbage", "not UTF-8"),
        ("echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18",
         "smi-mismatch", "of different versions"),
        ("echo 'Failed to initialize NVML: Insufficient Permissions'; exit 4",
         "smi-forbidden", "may not open the driver's device files"),
        ("echo \"NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\"; "
         "exit 9", "smi-no-driver", "cannot reach the NVIDIA kernel driver"),
        ("echo 'Unable to determine the device handle for GPU 0000:01:00.0: GPU is lost.'",
         "smi-gpu-lost", "GPU is lost"),
        ("echo 'Unable to determine the device handle for GPU1: 0000:2A:00.0: Unknown Error'; echo "
         "'No devices were found'; exit 255", "smi-gpu-lost", "0000:2A:00.0: Unknown Error"),
    ],
)  # fmt: skip
def test_what_nvidia_smi_does_is_a_finding_in_its_own_words(
    body: str, problem: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tmp_path, "nvidia-smi", body, monkeypatch)
    seconds = 0.4 if "hangs" in problem else 20.0
    seen = nvidia_smi.survey(tmp_path, lambda command, _: system.output(command, seconds))
    (found,) = seen.problems
    assert found.id == f"nvidia.{problem}" and words in found.message and not seen.gpus
    assert ("hang in the same way" in found.fix) == problem.endswith("hangs")


def test_a_table_that_ends_with_a_warning_and_an_exit_code_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "WARNING: infoROM is corrupted at gpu 0000:01:00.0"
    plant(tmp_path, "nvidia-smi", f'echo "{ROW}"; echo "{said}"; exit 14', monkeypatch)
    seen = nvidia_smi.survey(tmp_path)
    (found,) = seen.problems
    assert [gpu.uuid for gpu in seen.gpus] == [UUID] and seen.driver == "535.183.01"
    assert (found.id, found.severity) == ("nvidia.smi-warned", "warn") and said in found.message


def test_a_program_that_is_absent_or_may_not_be_started_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert [p.id for p in nvidia_smi.survey(tmp_path).problems] == ["nvidia.smi-absent"]
    assert [p.id for p in amd_smi_program.survey(tmp_path).problems] == ["amd.smi-absent"]
    plant(tmp_path, "nvidia-smi", SMI, monkeypatch)
    (tmp_path / "bin" / "nvidia-smi").chmod(0o644)
    assert [p.id for p in nvidia_smi.survey(tmp_path).problems] == ["nvidia.smi-forbidden"]


def test_a_program_is_found_where_its_vendor_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    for folder, name, body in (
        (nvidia_smi.FOLDER, "nvidia-smi", SMI),
        (amd_smi_program.FOLDER, "amd-smi", "echo '[{\"asic\": {}}]'"),
    ):
        program = tmp_path / folder / name
        program.parent.mkdir(parents=True)
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)
    assert nvidia_smi.survey(tmp_path).runtime == "12.2"
    assert len(amd_smi_program.survey(tmp_path).gpus) == 1


def test_device_files_that_are_not_there_or_closed_are_findings() -> None:
    with TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        version = root / "proc/driver/nvidia/version"
        version.parent.mkdir(parents=True)
        version.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue")

        def asked() -> list[list[str]]:
            return [[p.id, p.severity] for p in nvidia_files.survey(root).problems]

        assert asked() == [["nvidia.no-device-file", "fail"]]
        (root / "dev").mkdir()
        for name in ("nvidiactl", "nvidia0"):
            (root / "dev" / name).write_text("")
            (root / "dev" / name).chmod(0)
        closed = [["nvidia.closed-nvidia0", "warn"], ["nvidia.closed-nvidiactl", "fail"]]
        assert as_nobody(asked) == closed


def test_an_old_driver_is_asked_again_without_the_fields_that_it_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = re.sub(r", 8\.6|, \[N/A\]", "", ROW)
    body = (
        'case "$*" in *compute_cap*) echo \'Field "compute_cap" is not a valid field to query.\'; '
        "exit 2;; *mig.mode*) echo 'Field \"mig.mode.current\" is not a valid field to query.'; "
        f'exit 2;; *query*) echo "{short}";; *) echo "CUDA UMD Version: 11.4";; esac'
    )
    plant(tmp_path, "nvidia-smi", body, monkeypatch)
    seen = nvidia_smi.survey(tmp_path)
    assert seen.gpus[0].uuid == UUID and seen.gpus[0].arch.name == "unknown"
    assert (seen.driver, seen.runtime, seen.problems) == ("535.183.01", "11.4", ())


def test_amd_smi_prints_warnings_before_its_json_and_rubbish_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = '{"gpu": 0, "asic": {"market_name": "MI210"}, "vram": {"size": {"value": 65520}}}'
    plant(tmp_path, "amd-smi", f"echo warning: old; echo '[{entry}]'", monkeypatch)
    (card,) = amd_smi_program.survey(tmp_path).gpus
    assert (card.name, card.total_bytes) == ("MI210", 65520 * 2**20)
    for body in ("echo [[", "echo '{\"gpu_data\": 3}'", "echo", "printf '\\377'"):
        plant(tmp_path, "amd-smi", body, monkeypatch)
        assert [p.id for p in amd_smi_program.survey(tmp_path).problems] == ["amd.smi-garbage"]


def test_kernel_files_full_of_rubbish_raise_nothing(tmp_path: Path) -> None:
    node = tmp_path / "sys/class/kfd/kfd/topology/nodes/1"
    node.mkdir(parents=True)
    (node / "properties").write_bytes(b"\xff\xfe\nsimd_count 4\nlocation_id x\ndomain\n")
    assert [g.arch.name for g in kfd.survey(tmp_path).gpus] == ["unknown"]
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    version = tmp_path / "proc/driver/nvidia/version"
    version.write_bytes(b"\xff rubbish")
    assert [p.id for p in nvidia_files.survey(tmp_path).problems] == ["nvidia.proc-garbage"]
    version.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  575.57.08  Release"
    )
    assert nvidia_files.survey(tmp_path).driver == "575.57.08"


@pytest.mark.parametrize(
    "words, problem",
    [
        ("cannot open shared object file: No such file or directory", "nvidia.libcuda-not-found"),
        ("cannot open shared object file: Permission denied", "nvidia.libcuda-forbidden"),
    ],
)
def test_a_libcuda_that_cannot_be_opened_is_one_finding(
    words: str, problem: str, tmp_path: Path
) -> None:
    load = driver.load({"load": words})
    assert [p.id for p in libcuda.survey(tmp_path, load).problems] == [problem]
    assert cuda_devices.survey(tmp_path, load).problems == ()


@pytest.mark.parametrize(
    "code, problem",
    [
        (803, "nvidia.cuinit-mismatch"),
        (802, "nvidia.cuinit-not-ready"),
        (34, "nvidia.cuinit-stub"),
        (100, "nvidia.cuinit-no-device"),
        (7, "nvidia.cuinit-init"),
    ],
)
def test_libcuda_offers_its_version_even_where_cuda_does_not_start(
    code: int, problem: str, tmp_path: Path
) -> None:
    load = driver.load({"version": 12020, "init": code})
    assert libcuda.survey(tmp_path, load).runtime == "12.2"
    assert [p.id for p in cuda_devices.survey(tmp_path, load).problems] == [problem]


def test_a_library_that_is_not_the_driver_s_is_a_finding(tmp_path: Path) -> None:
    seen = libcuda.survey(tmp_path, lambda name: ctypes.CDLL(None))
    assert [p.id for p in seen.problems] == ["nvidia.libcuda-garbage"]
    assert cuda_devices.survey(tmp_path, lambda name: ctypes.CDLL(None)) == Survey("cuda")


def card(source: str, **known: object) -> Gpu:
    base = Gpu("cuda", 0, "NVIDIA GPU", Arch("sm", "unknown"), source, bus_id="0000:01:00.0")
    return Gpu(**{**vars(base), **known})


def test_what_one_source_leaves_open_another_says_and_is_named() -> None:
    found = card_sources.merged(
        "cuda",
        [
            Survey("cuda", (card("nvml", uuid=UUID, total_bytes=100),), None, None, "nvml"),
            Survey("cuda", (card("nvidia-smi", total_bytes=90, used_bytes=7, uuid=UUID.upper()),),
                   "535.1", None, "nvidia-smi"),
            Survey("cuda", (card("libcuda", arch=Arch("sm", "sm_86"), uuid="GPU-other"),), None,
                   "12.2", "libcuda"),
        ],
    )  # fmt: skip
    (gpu,) = found.gpus
    assert (gpu.total_bytes, gpu.used_bytes, gpu.arch.name) == (100, 7, "sm_86")
    assert gpu.sources == {"used_bytes": "nvidia-smi", "arch": "libcuda"}
    assert gpu.told_by == "nvml; used: nvidia-smi; architecture: libcuda"
    assert (found.driver, found.runtime, found.source) == ("535.1", "12.2", "nvml")
    assert found.source_of("driver") == "nvidia-smi" and found.source_of("runtime") == "libcuda"


@pytest.mark.parametrize("name", ["NVIDIA GPU", "AMD GPU 29857"])
def test_a_name_that_stands_for_an_unknown_one_is_replaced(name: str) -> None:
    said = [Survey("cuda", (card(n, name=n),), None, None, n) for n in (name, "RTX 4090")]
    assert card_sources.merged("cuda", said).gpus[0].name == "RTX 4090"


def test_cards_that_are_not_surely_the_same_are_not_mixed() -> None:
    twins = (card("nvml", mig=True, uuid="MIG-1"), card("nvml", mig=True, uuid="MIG-2"))
    whole = (card("nvidia-smi", mig=True, used_bytes=5, uuid=UUID),)
    found = card_sources.merged(
        "cuda",
        [Survey("cuda", twins, None, None, "nvml"), Survey("cuda", whole, None, None, "smi")],
    )
    assert [g.used_bytes for g in found.gpus] == [None, None]


def test_a_source_that_failed_stops_training_only_where_no_other_lists_the_cards() -> None:
    hung = Survey("cuda", problems=(Problem("nvidia.nvml-hangs", "fail", "words", "fix"),))
    absent = Survey("cuda", problems=(Problem("nvidia.smi-absent", "warn", "words", "fix"),))
    lists = Survey("cuda", (card("nvml"),), None, None, "nvml")

    def severities(*surveys: Survey) -> list[str]:
        return [p.severity for p in card_sources.merged("cuda", surveys).problems]

    assert severities(hung, absent) == ["fail", "warn"]
    assert severities(hung, absent, lists) == ["warn", "warn"]
    assert severities(lists, absent) == ["skip"]


def test_more_in_use_than_there_is_is_a_finding_and_not_a_figure() -> None:
    card = Gpu("cuda", 0, "NVIDIA A10", Arch("sm", "sm_86"), "nvml", 2**34, used_bytes=2**50)
    said = to_json(Survey("cuda", (card,), source="nvml"))
    seen = card_sources.survey("cuda", Path(), lambda name, root: child.Answer(data=said))
    assert seen.gpus[0].used_bytes is None and seen.gpus[0].total_bytes == 2**34
    assert any("what no card can have: used_bytes" in p.message for p in seen.problems)


def test_an_answer_of_another_shape_is_a_finding(tmp_path: Path) -> None:
    for data in ({}, {"gpus": 3, "problems": []}, {"gpus": [{"name": 1}], "problems": []}):
        seen = card_sources.survey("mps", tmp_path, lambda *_, data=data: child.Answer(data=data))
        assert [p.id for p in seen.problems] == ["mps.sysctl-failed"]
        assert "another shape" in seen.problems[0].message


@pytest.fixture
def a10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose pynvml aborts and whose nvidia-smi works; it writes down that it ran."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidiactl").write_text("")
    (tmp_path / "pynvml.py").write_text("import os; os.abort()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    plant(tmp_path, "nvidia-smi", f"echo ran >>{tmp_path}/asked\n{SMI}", monkeypatch)
    return tmp_path


def test_a_library_that_crashes_does_not_silence_the_program_beside_it(a10: Path) -> None:
    seen = machine.survey(a10, partial(card_sources.ask_in_child, timeout_seconds=30.0))
    nvidia = seen.survey("cuda")
    assert [(g.name, g.arch.name, g.source) for g in nvidia.gpus] == [
        ("NVIDIA A10", "sm_86", "nvidia-smi")
    ]
    assert (nvidia.driver, nvidia.runtime) == ("535.183.01", "12.2")
    kinds = {p.id: p.severity for p in nvidia.problems}
    assert kinds["nvidia.nvml-crashed"] == "warn" and "hang" not in str(nvidia.problems)


def test_without_a_device_no_driver_is_asked(a10: Path) -> None:
    here, _, _ = this_machine.observe(import_torch=False, device=False, root=a10)
    assert here.surveys == () and not (a10 / "asked").exists()


def test_without_a_device_torch_is_asked_for_nothing_but_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text(
        "class _Any:\n"
        " cuda, hip = '13.0', None\n"
        " def __getattr__(self, name): return _Any()\n"
        " def __call__(self, *words): return False\n"
        "version = backends = ops = _Any()\n"
        "__version__ = '2.13.0'\n"
        "def __getattr__(name): raise SystemExit(f'torch.{name} was asked')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    answer = child.ask("torch", ["software"], timeout_seconds=30.0)
    assert answer.data is not None and answer.data["cuda"] == "13.0", answer.error
    assert child.ask("torch", timeout_seconds=30.0).error == "torch.cuda was asked"
