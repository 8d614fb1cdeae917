"""Sentences that programs, drivers and libraries write, in the environment of somebody else."""

from pathlib import Path
from unicodedata import normalize

import pytest

from sd3tune.doctor.private import Private

TOKEN, KEY = "hf_" + "Zz0" * 11, "ghp_" + "Ab1" * 12
ENVIRON = {
    "USER": "Jane Döe",
    "HF_TOKEN": "hunter22",
    "TOKENIZERS_PARALLELISM": "false",
    "KEY_SIZE": "4096",
    "HF_ENDPOINT": "mirror.secretcorp.example:8443",
    "HTTPS_PROXY": "http://proxyjane:s3cr3t%40x@proxy.secretcorp.example:3128",
    "PIP_INDEX_URL": "https://a:b@pypi.org/simple",
    "GIT_REMOTE": "ssh://git@github.com/x/y",
    "HF_HOME": "/Volumes/Jane Disk/hf",
    "CONDA_PREFIX": "/Users/Jane Döe/mini conda",
}


@pytest.fixture
def private() -> Private:
    home = Path("/Users/Jane Döe")
    return Private.of(ENVIRON, home, home / "Projekte/Acme", ["jdoe"], ["Janes-MacBook.local"])


@pytest.mark.parametrize(
    "said, hidden",
    [
        (normalize("NFD", "/Users/Jane Döe/x/y.py failed"), ["Jane", "e/x", "y.py"]),
        ("/Users/Jane\\ Döe/x/y", ["Jane", "Döe", "/y"]),
        ("file:///Users/Jane%20D%C3%B6e/x", ["Jane", "C3"]),
        ("/Users/Jane Döe/Clients/Acme/lib.so: no such file", ["Clients", "Acme"]),
        ("/Users/Jane Döe/Projekte/Acme/datasets/bobs", ["Projekte", "datasets", "bobs"]),
        ("LD_LIBRARY_PATH=/usr/lib:/data/acme/lib", ["acme"]),
        ("error:/data/acme/run", ["acme"]),
        ("Permission denied: '/mnt/Bobs Disk/secret project/x'", ["Bobs", "Disk", "project"]),
        ("/Volumes/Bobs Disk/secret/x cannot be written", ["Bobs", "Disk", "secret/"]),
        ("//nas/jane/x", ["nas"]),
        ("logged in, mirror.secretcorp.example:8443", ["secretcorp", "8443"]),
        ("cannot reach proxy.secretcorp.example", ["secretcorp"]),
        ("s3cr3t@x, s3cr3t%40x and proxyjane", ["s3cr3t", "proxyjane"]),
        ("socks5://bob:pw@relay.example:1080", ["bob", "pw", "relay"]),
        ("s3://acme-bucket/x", ["acme"]),
        ("git@git.corp.example:bob/repo.git", ["corp", "bob", "repo"]),
        ("ssh://git@git.corp.example/bob/repo.git", ["corp", "bob", "repo"]),
        ("https://huggingface.co/bob/m?token=abc", ["bob", "abc"]),
        ("cannot reach 192.168.7.9.", ["192"]),
        ("fe80::1, fd00::5, 2001:db8:1:: at 3c:22:fb:01:02:03", ["fe80", "fd00", "db8", "3c"]),
        ("Serial Number (system): C02XG0ABCD", ["C02"]),
        ('serial="C02XG0ABCD", SerialNumber: C02XG0ABCE', ["C02"]),
        ("serial number C02XG0ABCD", ["C02"]),
        ("card 1 (MI300X, GPU-1b2c3d4e5f607182)", ["1b2c", "7182"]),
        ("CUDA_VISIBLE_DEVICES=GPU-bbbbbbbb,MIG-2c3d4e", ["bbbb", "2c3d"]),
        (f"token {TOKEN}, {KEY} refused", ["Zz0", "Ab1"]),
        ("hunter22 refused, says jane on Janes-MacBook", ["hunter22", "jane", "Janes"]),
    ],
)  # fmt: skip
def test_what_says_who_and_where_is_taken_out(
    said: str, hidden: list[str], private: Private
) -> None:
    got = private.text(said)
    assert not [word for word in hidden if word in got], got


@pytest.mark.parametrize(
    "said",
    [
        "brew install python@3.12, or: uv python install 3.12 (both arm64)",
        "gradient_checkpointing=false, width 4096",
        "std::vector c10::Error at::native at 12:30:45, ratio 1:2",
        "https://huggingface.co/models, a b (Git Hash 80afa71049cd)",
        "docker run --device=/dev/kfd, /usr/bin/python and /opt/rocm/lib, read and/or write",
        "a serial number, and serial numbers",
        "kernels of sk-learn, hf_hub_download, and tokenizers 0.22",
    ],
)
def test_words_of_ours_and_figures_stay(said: str, private: Private) -> None:
    assert private.text(said) == said


def test_a_part_of_a_uuid_becomes_the_placeholder_of_the_whole(private: Private) -> None:
    """A recording in which a variable names a card is played back with the same card."""
    whole = private.text("GPU-1bbbbbbb-0000-4000-8000-000000000002")
    assert private.text("CUDA_VISIBLE_DEVICES=GPU-1bbb") == f"CUDA_VISIBLE_DEVICES={whole}"
