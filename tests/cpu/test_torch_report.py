"""What PyTorch's child process says of devices that do not start."""

from types import SimpleNamespace

import pytest
import torch

from sd3tune.backends.observe.torch_report import from_answer, observe

ERROR_802 = (
    "Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling "
    "NumCudaDevices() that might have already set an error? Error 802: system not yet initialized"
)
CARD = SimpleNamespace(name="NVIDIA H100", total_memory=2**36, major=9, minor=0, uuid="5f1c")
BUSY = "CUDA error: CUDA-capable device(s) is/are busy\nCUDA kernel errors might be reported later"


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A CUDA build of PyTorch with two devices."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: CARD)
    return monkeypatch


def test_every_device_is_reported(cuda: pytest.MonkeyPatch) -> None:
    report = from_answer(observe())
    assert [d.index for d in report.devices] == [0, 1] and report.devices_error is None


def test_what_cuda_says_instead_of_starting_is_kept_in_its_words(
    cuda: pytest.MonkeyPatch,
) -> None:
    def refuse() -> None:
        raise RuntimeError(ERROR_802)

    cuda.setattr(torch.cuda, "init", refuse)
    report = from_answer(observe())
    assert report.devices == () and report.devices_error == ERROR_802
    assert report.imported and report.error is None, "the import itself did not fail"


def test_one_device_that_does_not_answer_leaves_the_others(cuda: pytest.MonkeyPatch) -> None:
    def answer(index: int) -> SimpleNamespace:
        if index == 0:
            raise RuntimeError(BUSY)
        return CARD

    cuda.setattr(torch.cuda, "get_device_properties", answer)
    report = from_answer(observe())
    assert [d.index for d in report.devices] == [1]
    assert report.devices_error == "device 0: CUDA error: CUDA-capable device(s) is/are busy"


def test_a_build_for_the_cpu_has_no_devices_and_no_error() -> None:
    report = from_answer(observe())
    assert report.devices == () and report.devices_error is None
