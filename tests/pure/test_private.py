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
    "RUNPOD_POD_ID": "x7k2p9qwe4rt1y",
    "VAST_CONTAINERLABEL": "C.1234567",
    "SLURM_JOB_ACCOUNT": "globex-research",
    "POD_NAME": "globex-trainer-0",
    "TEAM": "vandelay",
    "MODEL_ROOT": "/opt/initech/models",
    "SHELL": "/usr/bin/bash",
    "JOB_NAME": "auto",
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
        ("container C.1234567 at vast, C.7654321 beside it", ["1234567", "7654321"]),
        ("i-0abcdef1234567890 has no device, i-1a2b3c4d has", ["abcdef1234", "1a2b3c4d"]),
        ("pod x7k2p9qwe4rt1y (x7k2p9qwe4rt1y-8888.proxy.runpod.net)", ["x7k2p9", "runpod.net"]),
        ("1xq3w8c2zb5k9m was stopped", ["1xq3"]),
        ("gke-acme-default-pool-1a2b3c4d-x9z8, aks-pool1-12345678-vmss000001", ["acme", "pool1"]),
        ("/workspace/acme/x and /runpod-volume/hf", ["acme", "volume"]),
        ("pod id: a9b8c7d6e5f4g3, node=gpu17x", ["a9b8", "gpu17x"]),
        ("trainer-6d4cf56db6-x7k2p was evicted from globex-trainer-0", ["6d4cf", "globex"]),
        ("ssh5.vast.ai, 129-213-7-8, ip-10-0-3-4.ec2.internal", ["ssh5", "129-", "10-0", "ec2"]),
        ("gpu-node-17.acme.internal and dgx01.lan refuse", ["acme", "node-17", "dgx01"]),
        ("account globex-research of vandelay", ["globex", "vandelay"]),
        ("/opt/initech/models/x.bin and /opt/umbrella/env/lib/python", ["initech", "umbrella"]),
        ("/usr/local/hooli/bin/python: /usr/src/hooli/x.c", ["hooli"]),
        ("/etc/acme/ca.pem, /run/media/bob/Disk/x, /run/user/1000/x", ["acme", "bob", "1000"]),
        ("/dev/shm/acme/cache cannot be written; /acme-models neither", ["acme"]),
        ("/Applications/Acme Trainer/x and /Library/Acme/y", ["Acme"]),
        (r"C:\Users\Bob\x.py and \\fileserver\acme\y", ["Bob", "fileserver", "acme"]),
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
        "/opt/rocm-7.2/lib, /opt/conda/bin/python, /usr/local/cuda-13.0/bin/nvcc, /usr/bin/bash",
        "/dev/shm has 64 MiB, /dev/dri/renderD128, /proc/driver/nvidia/version, /etc/os-release",
        "/workspace and /tmp, and/or, n/a, 2/3, sm_90/gfx942, kernel 6.18.0-1-amd64",
        "host memory 12.5 GiB, job 3 of 4, node 20 fails, 2026-11-27, cu130, container docker",
        "docs.nvidia.com/cuda, torch.mps.recommended_max_memory, nn.Linear, c10.so",
        "kernels of sk-learn, hf_hub_download, and tokenizers 0.22",
    ],
)
def test_words_of_ours_and_figures_stay(said: str, private: Private) -> None:
    assert private.text(said) == said


def test_a_part_of_a_uuid_becomes_the_placeholder_of_the_whole(private: Private) -> None:
    """A recording in which a variable names a card is played back with the same card."""
    whole = private.text("GPU-1bbbbbbb-0000-4000-8000-000000000002")
    assert private.text("CUDA_VISIBLE_DEVICES=GPU-1bbb") == f"CUDA_VISIBLE_DEVICES={whole}"
