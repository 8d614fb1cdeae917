"""Training images in a bucket: a real S3 protocol over the loopback, from listing to latents."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sd3tune.data.s3 import S3Bucket
from sd3tune.encode.everything import make_output, report
from sd3tune.errors import DataError
from tests.cpu.conftest import Project
from tests.image_folders import dataset
from tests.loopback import Handler, sends, serving

boto3 = pytest.importorskip("boto3")
moto = pytest.importorskip("moto.server")
pytest.importorskip("s3fs")

KEYS = {
    "aws_access_key_id": "key",
    "aws_secret_access_key": "secret",
    "aws_region_name": "eu-west-3",
}


@pytest.fixture
def server() -> Iterator[str]:
    running = moto.ThreadedMotoServer(port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    address = f"http://{host}:{port}"
    yield address
    urllib.request.urlopen(urllib.request.Request(f"{address}/moto-api/reset", method="POST"))
    running.stop()


@pytest.fixture
def bucket(project: Project, server: str) -> Any:
    """The project with its images in a bucket instead of its folder."""
    for i in range(6):
        project.picture(f"a/{i}.png", i)
    (project.images / "a" / "bad.png").write_bytes(b"no picture")
    (project.images / "a" / "bad.txt").write_text("bad")
    client = boto3.client("s3", endpoint_url=server, region_name="eu-west-3",
                          aws_access_key_id="key", aws_secret_access_key="secret")  # fmt: skip
    client.create_bucket(
        Bucket="pictures", CreateBucketConfiguration={"LocationConstraint": "eu-west-3"}
    )
    for path in project.images.rglob("*.*"):
        client.upload_file(str(path), "pictures", f"set/{path.relative_to(project.images)}")
    del project.dataset["instance_data_dir"]
    project.dataset |= {"type": "aws", "aws_bucket_name": "pictures", "aws_data_prefix": "set/",
                        "aws_endpoint_url": server, **KEYS}  # fmt: skip
    return client


def test_images_and_captions_in_a_bucket_are_trained_on(project: Project, bucket: Any) -> None:
    prepared = project.prepare()
    assert [s.name for s in prepared.samples] == [f"a/{i}.png" for i in range(6)]
    assert prepared.samples[2].captions == ("picture number 2 of a/2.png",)
    assert prepared.samples[2].path == "s3://pictures/set/a/2.png"
    (rejected,) = prepared.discoveries["d"].rejected
    assert rejected.path == "s3://pictures/set/a/bad.png" and "no image format" in rejected.reason
    assert project.build() == {"text": 7, "vae": 6}
    assert project.build() == {"text": 0, "vae": 0}
    project.picture("a/3.png", 33)
    bucket.upload_file(str(project.images / "a/3.png"), "pictures", "set/a/3.png")
    assert project.build() == {"text": 0, "vae": 1}


def test_the_latents_are_those_of_the_same_files_in_a_folder(project: Project, bucket: Any) -> None:
    project.build()
    there = project.entries("vae")
    project.dataset = {k: v for k, v in project.dataset.items() if not k.startswith("aws")}
    project.dataset |= {"type": "local", "instance_data_dir": "images"}
    project.dataset["crop"] = False
    assert project.build() == {"text": 0, "vae": 0} and project.entries("vae") == there


@pytest.mark.parametrize(
    "wrong, words",
    [({"aws_bucket_name": "other"}, "`s3://other/set` cannot be listed"),
     ({"aws_endpoint_url": "http://127.0.0.1:9"}, "cannot be listed"),
     ({"aws_data_prefix": "nothing/"}, "holds no image files")],
)  # fmt: skip
def test_a_bucket_that_cannot_be_used_is_two_lines(
    project: Project, bucket: Any, wrong: dict[str, str], words: str
) -> None:
    project.dataset |= wrong
    with pytest.raises(DataError) as e:
        project.prepare()
    assert words in str(e.value) and e.value.hint


def test_secrets_are_written_nowhere(project: Project, bucket: Any) -> None:
    project.dataset["aws_secret_access_key"] = "do-not-tell"
    path = project.write()
    command = [sys.executable, "-m", "sd3tune", "dataset", str(path), "--json"]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=project.root)
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["datasets"][0]["images"] == 6
    assert "do-not-tell" not in answer.stdout + answer.stderr
    project.dataset["aws_data_prefix"] = 5
    command[4] = str(project.write())
    answer = subprocess.run(command, capture_output=True, text=True, cwd=project.root)
    assert answer.returncode == 1 and "do-not-tell" not in answer.stdout + answer.stderr
    assert Path(path).exists()


def test_the_report_of_a_run_shows_no_query_of_an_address(project: Project) -> None:
    project.picture("0.png", 0)
    data = (project.images / "0.png").read_bytes()
    with serving(sends(data)) as good, serving(sends(b"", 404)) as gone:
        urls = [f"http://me:secret@{s.host}/{i}.png?sig=secret" for s in (good, gone)
                for i in range(2)]  # fmt: skip
        table = project.root / "t.csv"
        table.write_text("filename,caption\n" + "".join(f"{u},words\n" for u in urls))
        del project.dataset["instance_data_dir"]
        project.dataset |= {"type": "csv", "caption_strategy": "csv", "csv": {"path": "t.csv"},
                            "allow_private_hosts": True, "max_download_seconds": 20}  # fmt: skip
        prepared = project.prepare()
        make_output(prepared.plan.output_dir)
        report(prepared, 0, ())
    text = (prepared.plan.output_dir / "set_aside.json").read_text()
    assert "secret" not in text
    assert {row["path"] for row in json.loads(text)} == {f"{gone.address}/{i}.png" for i in (0, 1)}
    assert {row["reason"] for row in json.loads(text)} == {
        "cannot be read: cannot be fetched: the server answers 404"
    }


def test_a_hub_dataset_may_have_several_configurations(tmp_path: Path) -> None:
    import datasets
    from PIL import Image

    from sd3tune.config.datasets.image_dataset import ImageDataset
    from sd3tune.data.hub_rows import HubRows

    picture = Image.new("RGB", (64, 64))
    for name, count in (("one", 1), ("three", 3)):
        rows = datasets.Dataset.from_dict(
            {"image": [picture] * count, "caption": ["a square"] * count},
            features=datasets.Features(
                {"image": datasets.Image(), "caption": datasets.Value("string")}
            ),
        )
        (tmp_path / name).mkdir()
        rows.to_parquet(str(tmp_path / name / "train.parquet"))
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n" + "".join(
            f"- config_name: {name}\n  data_files: {name}/*.parquet\n" for name in ("one", "three")
        ) + "---\n"
    )  # fmt: skip
    for name, count in (("one", 1), ("three", 3)):
        found = ImageDataset(
            id="d", type="huggingface", dataset_name=str(tmp_path), dataset_config=name,
            caption_strategy="huggingface", resolution=64, resolution_type="pixel_area",
            cache_dir_vae=tmp_path / "cache",
        )  # fmt: skip
        assert len(HubRows(found).names()) == count


def test_a_hub_dataset_is_read_from_its_split(tmp_path: Path) -> None:
    import datasets
    from PIL import Image

    from sd3tune.data.hub_rows import HubRows

    for split, count in (("train", 1), ("test", 2)):
        pictures = [Image.new("RGB", (64, 64))] * count
        rows = datasets.Dataset.from_dict({"image": pictures, "caption": ["a square"] * count})
        rows.to_parquet(str(tmp_path / "hub" / f"{split}.parquet"))
    asked = dataset(tmp_path, instance_data_dir=None, type="huggingface", split="test",
                    dataset_name=str(tmp_path / "hub"), caption_strategy="huggingface")  # fmt: skip
    assert len(HubRows(asked).names()) == 2


LISTED = """<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
<Name>pictures</Name><KeyCount>1</KeyCount><IsTruncated>false</IsTruncated><Contents>
<Key>set/a.png</Key><Size>1000</Size><ETag>"x"</ETag><LastModified>2026-01-01T00:00:00Z</LastModified>
</Contents></ListBucketResult>"""


def test_a_bucket_that_sends_more_than_it_listed_is_not_read_on(tmp_path: Path) -> None:
    sent = []

    def endless(request: Handler) -> None:
        if "list-type" in request.path:
            return sends(LISTED.encode())(request)
        request.send_response(200)
        request.end_headers()
        for _ in range(1000):
            request.wfile.write(b"\0" * 2**20)
            sent.append(2**20)

    with serving(endless) as server:
        bucket = {"type": "aws", "aws_bucket_name": "pictures", "aws_data_prefix": "set/",
                  "aws_endpoint_url": server.address, "instance_data_dir": None}  # fmt: skip
        source = S3Bucket(dataset(tmp_path / "x", **bucket, **KEYS))
        assert source.names() == ["a.png"]
        for use in (source.read, source.caption, lambda name: source.open(name).read(100)):
            with pytest.raises(OSError, match="sends more than the 1000 bytes it should have"):
                use("a.png")
    assert sum(sent) < 100 * 2**20  # what fits into buffers on the way
