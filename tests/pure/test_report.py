"""What `sd3tune doctor --report` gives away, and what can be made of it again."""

import json
import string
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sd3tune import doctor
from sd3tune.backends.decide.admission import recorded
from sd3tune.backends.observe import raw_answers, recorded_machine
from sd3tune.backends.observe.facts import Facts
from sd3tune.cli import doctor as doctor_command
from sd3tune.doctor import report
from sd3tune.doctor.identities import FORMS
from sd3tune.doctor.private import Private, vocabulary
from tests import recordings

SMI = ("0, NVIDIA H100 80GB HBM3, GPU-5f1c2b9e-0d4a-4b7e-9a53-3c8f0b2d7e11, 00000000:18:00.0, "
       "580.95.05, 81559, 4, 9.0, 41, 700, 700, 0, 5, 5, 16, 16, Default, Disabled")  # fmt: skip
SMI_Q = """
GPU 00000000:18:00.0
    Product Name                          : NVIDIA H100 80GB HBM3
    Serial Number                         : 1652222012345
    GPU UUID                              : GPU-5f1c2b9e-0d4a-4b7e-9a53-3c8f0b2d7e11
    Board ID                              : 0x1800
        Compute Mode                      : Default
    Processes
        Name                              : /home/alice/secret-project/train.py
"""
DISPLAYS = {
    "SPDisplaysDataType": [
        {
            "_name": "Apple M3 Max",
            "sppci_cores": "40",
            "sppci_model": "Apple M3 Max",
            "spdisplays_ndrvs": [
                {"_name": "Studio", "_spdisplays_display-serial-number": "C02XG0"}
            ],
        }
    ]
}
PLANTED = {
    "m3-max": {"system_profiler": json.dumps(DISPLAYS)},
    "h100": {"nvidia-smi": {"--format=csv,noheader,nounits": SMI, "-q": SMI_Q}},
    "amd-smi-only": {},
    "cpu-only": {},
}


@pytest.fixture
def document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    """`doctor --json` of a recorded machine, whose programs go on answering."""

    def make(name: str) -> dict[str, Any]:
        answers = recordings.load(name)
        answers["commands"].update(PLANTED[name])
        seen = recordings.observed(answers, tmp_path, monkeypatch)
        made = doctor.diagnose(*seen, recorded({}))
        read: dict[str, Any] = json.loads(doctor_command.document(made))
        return read

    return make


def bundled(
    said: dict[str, Any], environ: Mapping[str, str], private: Private, root: Path
) -> dict[str, Any]:
    """The report, with what a build of PyTorch for a Mac says of itself."""
    return report.bundle(said, environ, private, root, lambda: {"config": "BLAS_INFO=accelerate"})


NAMES = st.text(string.ascii_lowercase, min_size=3, max_size=12).filter(
    lambda name: name not in vocabulary()
)
SECRETS = st.text(string.ascii_letters + string.digits + "_-", min_size=8, max_size=40)


@settings(max_examples=60, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(user=NAMES, host=NAMES, token=SECRETS, password=SECRETS, folder=NAMES)
@pytest.mark.parametrize("name", list(PLANTED))
def test_nothing_that_says_who_and_where_is_in_a_report(
    name: str, user: str, host: str, token: str, password: str, folder: str,
    document: Callable[[str], dict[str, Any]], tmp_path: Path,
) -> None:  # fmt: skip
    """Planted in the environment and in sentences of doctor's, as errors and paths bring them."""
    assume(len({user, host, folder, token, password}) == 5)
    home, here = Path(f"/Users/{user}"), Path(f"/Users/{user}/{folder}/run")
    environ = {
        "USER": user, "HOSTNAME": f"{host}.example.org", "HF_TOKEN": token, "DB_PASSWORD": password,
        "HF_HOME": f"/Volumes/{folder}", "CUDA_VISIBLE_DEVICES": "0", "SOMETHING_ELSE": "planted",
        "CONDA_PREFIX": f"{home}/conda",
    }  # fmt: skip
    said, neutral = document_once(name, document, tmp_path)
    sentences = "train.py permission denied for could not connect example.org hub can be written "
    sentences += (
        "mirror.net simple refused ether .cache fell off the bus findings report nvidia_smi "
    )
    sentences += (
        "environment packages torch config blas_info=accelerate recording provenance measured "
    )
    sentences += "serial number "
    sentences += "doctor platform files commands tools environ sysctl xcode-select conda planted"
    neutral += (
        sentences + " ".join(environ).lower() + "00000000-0000-0000-0000-000000000001 " + 40 * "0"
    )
    assume(not any(word.lower() in neutral for word in (user, host, folder, token, password)))
    planted = [
        f"{here}/train.py: permission denied for {user}@{host}",
        f"could not connect to {host}.example.org (10.1.2.3, fe80::1c2:33ff:fe44:5566) as {user}",
        f"/Volumes/{folder}/hub can be written; token={token}",
        f"https://{user}:{token}@mirror.{host}.net/simple refused {password}",
        f"Serial Number: C02{'X' * 8}; ether 3c:22:fb:01:02:03; {home}/.cache",
        "GPU-5f1c2b9e-0d4a-4b7e-9a53-3c8f0b2d7e11 at 00000000:18:00.0 fell off the bus",
    ]
    fact = {"id": "x", "status": "FAIL", "name": "x", "source": str(home), "fix": ""}
    said = {**said, "findings": [*said["findings"], *({**fact, "fact": p} for p in planted)]}
    text = json.dumps(bundled(said, environ, Private.of(environ, home, here), tmp_path))
    whole = text.lower()
    for secret in (token, password):
        assert secret not in text
    for hidden in (str(home), str(here), f"/volumes/{folder}", f"{host}.example.org", "c02xg0",
                   "c02xxxx", "3c:22:fb", "10.1.2.3", "fe80::", "5f1c2b9e", ":18:00.0", "planted",
                   "1652222012345", "secret-project", "studio"):  # fmt: skip
        assert hidden.lower() not in whole, hidden
    for who in (user, host):
        assert who not in whole, who


_documents: dict[str, tuple[dict[str, Any], str]] = {}


def document_once(
    name: str, make: Callable[[str], dict[str, Any]], root: Path
) -> tuple[dict[str, Any], str]:
    """Played once a test, not once an example. With the words that stand in everybody's report of
    such a machine: who is called by one of them gives nothing away."""
    if name not in _documents:
        made = make(name)
        anybody = json.dumps(bundled(made, {}, Private([]), root))
        words = "<user> <host> <secret> <folder> <path> <environment> <working directory> <url>"
        ours = f"{words} {' '.join(FORMS)} {json.dumps(made)} {anybody}"
        _documents[name] = made, ours.lower()
    return _documents[name]


def cleaned(name: str, document: Callable[[str], dict[str, Any]], root: Path) -> dict[str, Any]:
    private = Private.of({"USER": "mariella"}, Path("/Users/mariella"), Path("/Users/mariella/x"))
    return bundled(document(name), recordings.load(name)["environ"], private, root)


@pytest.mark.parametrize("name", list(PLANTED))
def test_a_report_is_a_machine_to_plan_for_and_a_recording_to_test_with(
    name: str, document: Callable[[str], dict[str, Any]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    made = cleaned(name, document, tmp_path)
    path = tmp_path / "sent.json"
    path.write_text(json.dumps(made))
    there = recorded_machine.facts(path)
    assert there.origin == "recorded" and there.weakest.usable_bytes
    sent = recordings.load("sent", tmp_path)
    assert sent["provenance"].startswith("measured: sd3tune")
    *_, again = recordings.observed(sent, tmp_path / "root", monkeypatch)
    assert decided(again) == decided(there), "joined again from the answers of its programs"


def decided(facts: Facts) -> tuple[object, ...]:
    """What the rules look at; which library answered is not in a report, and so not the same."""
    devices = tuple(replace(d, uuid=None, physical_index=None) for d in facts.devices)
    total = [d.total_bytes for d in devices]
    return facts.vendor, facts.torch, facts.torch_build, total, [d.arch for d in devices]


def test_the_same_card_keeps_one_name_in_all_places(
    document: Callable[[str], dict[str, Any]], tmp_path: Path
) -> None:
    made = cleaned("h100", document, tmp_path)
    uuid = made["torch"]["devices"][0]["uuid"]
    assert (
        uuid.startswith("00000000-0000-") and made["facts"]["devices"][0]["uuid"] == f"GPU-{uuid}"
    )
    assert f"GPU-{uuid}" in made["recording"]["commands"]["nvidia-smi"]
    bus = made["torch"]["devices"][0]["bus_id"]
    assert bus == "0000:01:00.0" == made["machine"]["surveys"][0]["gpus"][0]["bus_id"]
    assert f"0000{bus}" in made["recording"]["commands"]["nvidia-smi"]


def test_only_named_variables_and_fields_are_in_a_report(
    document: Callable[[str], dict[str, Any]], tmp_path: Path
) -> None:
    made = cleaned("m3-max", document, tmp_path)
    answers = made["recording"]["commands"]
    assert set(answers["sysctl"]) <= set(raw_answers.SYSCTL)
    assert json.loads(answers["system_profiler"]) == {
        "SPDisplaysDataType": [
            {"_name": "Apple M3 Max", "sppci_cores": "40", "sppci_model": "Apple M3 Max"}
        ]
    }
    assert made["report"]["torch"] == {"config": "BLAS_INFO=accelerate"}


def test_only_named_lines_of_nvidia_smi_are_in_a_report(
    document: Callable[[str], dict[str, Any]], tmp_path: Path
) -> None:
    nvidia = cleaned("h100", document, tmp_path)["report"]["nvidia_smi"]
    assert [line.split(":")[0].strip() for line in nvidia] == ["Product Name", "Compute Mode"]


def test_words_of_ours_and_figures_stay(
    document: Callable[[str], dict[str, Any]], tmp_path: Path
) -> None:
    """A user called as a backend or a chip, and versions of three and of four numbers."""
    private = Private.of({"USER": "apple", "HOSTNAME": "m3"}, Path("/Users/apple"), Path("/"))
    made = bundled(document("m3-max"), {}, private, tmp_path)
    assert made["facts"]["devices"][0]["arch"] == {"family": "apple", "name": "m3-max"}
    kept = "PyTorch 2.13.0 at 15.3.1, 0.5 GB/s, /dev/shm, https://huggingface.co/models, 12:30:45"
    assert private.text(kept) == kept
    built = "CXX_COMPILER=/opt/rh/gcc-toolset-13/root/usr/bin/c++"
    assert Private.of({}, Path("/root"), Path("/root/x")).text(built) == built


def test_a_folder_that_is_not_there_is_the_user_s_to_mend(tmp_path: Path) -> None:
    from sd3tune.errors import ConfigError

    said: dict[str, Any] = {"torch": None, "facts": {"packages": {}, "tools": {}}, "version": "0",
            "machine": {"host": {"os": "Linux"}, "surveys": []}}  # fmt: skip
    with pytest.raises(ConfigError, match=r"cannot be written: No such file"):
        report.write(said, tmp_path / "nowhere" / "report.json")
