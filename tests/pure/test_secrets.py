# ruff: noqa: E501  (tables: one case a line)
"""Values of the environment and of URLs stay where they belong, whatever a shared file asks for."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from sd3tune.config.config import Config
from sd3tune.config.datasets.listing import load_datasets
from sd3tune.config.files.placeholders import looks_secret
from sd3tune.data.discover import RejectedFile, discover
from sd3tune.data.sheet import draw
from sd3tune.data.sources import source_of
from sd3tune.errors import ConfigError, DataError
from sd3tune.urls import redacted, shown_url
from tests.commands import sd3tune
from tests.image_folders import dataset, found, picture
from tests.loopback import sends, serving

SECRET = "hf_do_not_tell_anybody"
BUCKET: dict[str, Any] = {"id": "b", "type": "aws", "aws_bucket_name": "pictures"}
PHOTOS: dict[str, Any] = {"id": "p", "instance_data_dir": "photos"}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HF_TOKEN", "SOME_SECRET", "MY_S3_KEY", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "an-id")
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()
    picture(tmp_path / "photos" / "a.png")
    return tmp_path


def write(entries: list[dict[str, Any]], **settings: Any) -> Path:
    path = Path("config/config.json")
    path.write_text(
        json.dumps({"output_dir": "out", "max_train_steps": 1, "resolution": 64} | settings)
    )
    Path("config/multidatabackend.json").write_text(json.dumps(entries))
    return path


def load(*entries: dict[str, Any], **settings: Any) -> Any:
    config = Config.load(write(list(entries), **settings))
    return load_datasets(config.data_backend_config, config)


def test_no_request_carries_a_token_that_a_datasets_file_asks_for(project: Path) -> None:
    """As sent by somebody: `sd3tune dataset` on a file with an endpoint of his."""
    with serving(sends(b"", 404)) as server:
        for key, text in (("aws_endpoint_url", f"{server.address}/{{env:HF_TOKEN}}"),
                          ("aws_bucket_name", "{env:HF_TOKEN}"),
                          ("aws_access_key_id", "{env:HF_TOKEN}")):  # fmt: skip
            entry = BUCKET | {"aws_endpoint_url": server.address} | {key: text}
            answer = sd3tune("dataset", str(write([entry])))
            assert answer.returncode == 1 and SECRET not in answer.stdout + answer.stderr
            error, hint = answer.stderr.splitlines()[-2:]
            assert error.startswith("error: ") and "multidatabackend.json`: dataset `b`" in error
            assert f"`{key}` uses {{env:HF_TOKEN}}" in error and hint.startswith("hint: ")
        assert server.asked == []


SENT = [  # strings of a datasets file that are sent to somebody, shown or stored
    BUCKET | {"aws_endpoint_url": "http://{env:DATA_ROOT}.example.com"},
    BUCKET | {"aws_data_prefix": "x/{env:SOME_SECRET}"},
    BUCKET | {"aws_region_name": "{env:SOME_SECRET}"},
    BUCKET | {"aws_access_key_id": "{env:OPENAI_API_KEY}"},
    BUCKET | {"aws_endpoint_url": "http://example.com/{output_dir}"},
    {"id": "h", "type": "huggingface", "dataset_name": "somebody/{env:DATA_ROOT}"},
    {"id": "h", "type": "huggingface", "dataset_name": "a/b", "revision": "{env:SOME_SECRET}"},
    {"id": "c", "type": "csv", "csv": {"path": "x.csv", "filename_column": "{env:SOME_SECRET}"}},
    {"id": "c", "type": "csv", "csv_file": "x.csv", "csv_url_column": "{env:SOME_SECRET}"},
    PHOTOS | {"instance_prompt": "a photo of {env:SOME_SECRET}"},
    PHOTOS | {"caption_filter_list": ["{env:SOME_SECRET}"]},
    PHOTOS | {"cache_dir_vae": "{env:HF_TOKEN}"},
    PHOTOS | {"instance_data_dir": "photos/{env:AWS_SECRET_ACCESS_KEY}"},
    {"id": "c", "type": "csv", "csv": {"path": "{env:HF_TOKEN}.csv"}},
]


@pytest.mark.parametrize("entry", SENT, ids=lambda e: list(e)[-1])
def test_values_of_the_environment_go_into_credentials_and_paths_only(
    project: Path, entry: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError) as e:
        load(entry)
    key = list(entry)[-1]
    assert f"`{key}" in str(e.value) and f"dataset `{entry['id']}`" in str(e.value)
    assert SECRET not in str(e.value) + e.value.hint and str(project) not in e.value.hint


def test_credentials_and_paths_take_values_of_the_environment(project: Path) -> None:
    keys = {
        "aws_access_key_id": "{env:AWS_ACCESS_KEY_ID}",
        "aws_secret_access_key": "{env:MY_S3_KEY}",
    }
    (bucket,) = load(BUCKET | keys).images
    assert bucket.aws_access_key_id == "an-id"
    assert bucket.aws_secret_access_key.get_secret_value() == SECRET
    (photos,) = load(
        PHOTOS
        | {"instance_data_dir": "{env:DATA_ROOT}/photos", "allowed_roots": ["{env:DATA_ROOT}"]}
    ).images
    assert photos.instance_data_dir == project / "photos" and photos.allowed_roots == (project,)
    local = {"id": "h", "type": "huggingface", "dataset_name": "{env:DATA_ROOT}/hub"}
    assert load(local).images[0].dataset_name == str(project / "hub")
    assert load(PHOTOS, output_dir="{env:DATA_ROOT}/out").images
    with pytest.raises(ConfigError, match=r"aws_secret_access_key` uses .*NOT_SET is not set"):
        load(BUCKET | {"aws_secret_access_key": "{env:NOT_SET}"})


def test_a_run_takes_no_secret_out_of_the_environment(project: Path) -> None:
    with pytest.raises(ConfigError, match=r"`output_dir` uses \{env:HF_TOKEN\}, which looks like"):
        load(PHOTOS, output_dir="{env:HF_TOKEN}")
    path = Path("config/config.env")
    path.write_text("export TEXT=mine\nexport CACHE_DIR=https://x/${HF_TOKEN}\n")
    with pytest.raises(ConfigError, match=r"config\.env:2`: CACHE_DIR uses \$HF_TOKEN") as e:
        Config.load(path)
    assert SECRET not in str(e.value)
    path.write_text("export MY_TOKEN=x\nexport OUTPUT_DIR=$DATA_ROOT/$MY_TOKEN\nMAX_NUM_STEPS=1\n")
    assert Config.load(path).output_dir == project / "x"  # the file's own is not a secret


@pytest.mark.parametrize(
    "key, text",
    [("revision", "{env:PLAIN}"), ("variant", "{env:PLAIN}"),
     ("pretrained_transformer_subfolder", "{env:PLAIN}"),
     ("pretrained_transformer_model_name_or_path", "somebody/{env:PLAIN}"),
     ("--pretrained-model-name-or-path", "somebody/{env:PLAIN}")],
)  # fmt: skip
def test_what_the_hub_hears_of_holds_no_value_of_this_machine(
    project: Path, monkeypatch: pytest.MonkeyPatch, key: str, text: str
) -> None:
    monkeypatch.setenv("PLAIN", SECRET)
    name = key.removeprefix("--").replace("-", "_")
    with pytest.raises(ConfigError, match=f"`{name}[=`].*(sent to a server|paths only)") as e:
        load(PHOTOS, **{key: text})
    assert SECRET not in str(e.value)
    monkeypatch.setenv("MODELS", str(project))
    assert load(PHOTOS, pretrained_model_name_or_path="{env:MODELS}/sd3").images


@pytest.mark.parametrize(
    "entry",
    [{"id": "t", "dataset_type": "text_embeds", "aws_secret_access_key": ["{env:MY_S3_KEY}"]},
     BUCKET | {"aws_secret_access_key": ["{env:MY_S3_KEY}"]},
     BUCKET | {"aws_access_key_id": [SECRET]}],
)  # fmt: skip
def test_a_credential_in_the_wrong_place_is_not_shown(project: Path, entry: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"aws_.*=…` ") as e:
        load(entry)
    assert SECRET not in str(e.value) + e.value.hint


@pytest.mark.parametrize("name", ["HF_TOKEN", "hf_token", "AWS_SESSION_TOKEN", "WANDB_API_KEY", "GITHUB_PAT",
                                  "DB_PASSWORD", "DB_PWD", "MYSQL_PASS", "DATABASE_URL", "SSH_PRIVATE", "SLACK_WEBHOOK"])  # fmt: skip
def test_names_of_secrets_are_known(name: str) -> None:
    assert looks_secret(name)


@pytest.mark.parametrize("name", ["HOME", "USER", "PWD", "PATH", "SCRATCH", "DATA_ROOT", "SLURM_JOB_ID", "TMPDIR",
                                  "HF_HOME", "TOKENIZERS_PARALLELISM", "COMPASS_DIR"])  # fmt: skip
def test_ordinary_names_are_not_taken_for_secrets(name: str) -> None:
    assert not looks_secret(name)


@pytest.mark.parametrize(
    "url",
    [
        "https://user:secret@h.example",
        "https://h.example/?key=secret",
        "h.example",
        "ftp://h",
        "http://",
        "http://h:99999",
    ],
)
def test_an_endpoint_is_an_address_and_nothing_else(project: Path, url: str) -> None:
    with pytest.raises(ConfigError, match="aws_endpoint_url") as e:
        load(BUCKET | {"aws_endpoint_url": url})
    assert "secret" not in str(e.value).replace("aws_secret_access_key", "")


@pytest.mark.parametrize(
    "text, shown",
    [
        ("https://user:secret@host/a.png?token=secret#secret", "https://host/a.png"),
        ('no: "http://h:9/b?list-type=2&x=secret".', 'no: "http://h:9/b".'),
        ("HTTPS://u@H/a, and s3://k:secret@b/c?secret", "HTTPS://H/a, and s3://b/c"),
        (
            "Max retries exceeded with url: /a?token=secret (Caused by x)",
            "Max retries exceeded with url: /a (Caused by x)",
        ),
        ("https://host?token='secret'", "https://host'"),
        ("https://host/a@b/c.png is there", "https://host/a@b/c.png is there"),
        ("/data/what?/a.png and `x`", "/data/what?/a.png and `x`"),
    ],
)
def test_urls_are_shown_without_what_may_be_a_secret(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert str(DataError(text, hint="")) == shown and RejectedFile("d", "p", text).reason == shown


def test_names_that_are_urls_are_cut_whatever_they_are_made_of() -> None:
    assert shown_url("https://me:pw`x y@host:8/a b.png?sig=`x'y z") == "https://host:8/a b.png"
    assert shown_url("a b?c#d.png") == "a b?c#d.png"


@pytest.mark.parametrize("secret", ["pa/ss", "pa?ss", "pa#ss", "pa/s@s"])
@pytest.mark.parametrize("scheme", ["http://", "ftp://", "s3+x://", "//", "ht\ttp://", " http://"])
def test_a_password_that_nobody_quoted_is_not_shown(secret: str, scheme: str) -> None:
    url = f"{scheme}me:{secret}@host/a b.png?sig=token"
    assert shown_url(url) == f"{scheme}host/a b.png"
    if scheme.strip() in ("http://", "ftp://", "s3+x://"):
        said = redacted(f"no answer from {url.replace(' b', 'b')}, sorry")
        assert "sorry" in said and "pa" not in said and "token" not in said
    for name in ("http://host:80/a@b.png", "http://[::1]:80/a@b.png", "http://host:/a@b.png"):
        assert shown_url(name) == redacted(name) == name


def test_rows_with_addresses_of_other_kinds_show_no_secret(tmp_path: Path) -> None:
    names = ("ftp://me:pw@host/a.png?sig=pw", "s3://me:pw@host/a.png?sig=pw",
             "//me:pw@host/a.png?sig=pw", "gs+https://me:pw@host/a.png?sig=pw")  # fmt: skip
    table = tmp_path / "t.csv"
    picture(tmp_path / "good.png")
    table.write_text("filename,caption\ngood.png,x\n" + "".join(f'"{n}",x\n' for n in names))
    got = found(tmp_path, instance_data_dir=None, type="csv", caption_strategy="csv",
                csv={"path": table})  # fmt: skip
    assert len(got.samples) == 1 and len(got.rejected) == len(names)
    assert "pw" not in repr(got.rejected) and "sig" not in repr(got.rejected)
    why = [r.reason for r in got.rejected if not r.path.startswith("//")]
    assert why == ["cannot be read: its address is not an http or https address"] * 3


def test_urls_of_a_table_are_shown_cut_everywhere(project: Path) -> None:
    image = (project / "photos" / "a.png").read_bytes()
    with serving(sends(image)) as server, serving(sends(b"", 404)) as none:
        good = [f"http://me:pw-secret@{server.host}/a.png?sig=secret{i}.x" for i in (1, 2)]
        bad = f"{none.address}/gone.png?sig=secret"
        Path("t.csv").write_text(
            "filename,caption\n" + "".join(f"{u},words\n" for u in (*good, bad))
        )
        entry = {"id": "u", "type": "csv", "csv": {"path": "t.csv"}, "allow_private_hosts": True}
        path = write([entry])
        answers = [sd3tune("dataset", str(path), *more) for more in ((), ("--json",))]
        for answer in answers:
            assert answer.returncode == 0, answer.stderr
            assert "secret" not in answer.stdout + answer.stderr
            for host in (server.host, none.host):
                assert f"contacts {host} (filename of the table) for dataset `u`" in answer.stderr
        rows = json.loads(answers[1].stdout)["images"]
        address = f"{server.address}/a.png"
        assert {r["path"] for r in rows} == {address, f"{address} (2)", f"{none.address}/gone.png"}
        assert "Authorization: Basic" in server.asked[0]
        settings = dataset(project / "photos", type="csv", caption_strategy="filename", allow_private_hosts=True,
                           instance_data_dir=None, csv={"path": project / "t.csv"})  # fmt: skip
        source = source_of(settings)
        samples = discover(settings, source).samples
        assert {s.captions for s in samples} == {("a",)}  # file names are captions
        draw(project / "sheet.png", samples, {"d": source}, {})


def test_a_session_token_of_the_environment_is_sent_to_amazon_only(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("s3fs")
    monkeypatch.setenv("AWS_SESSION_TOKEN", SECRET)
    with serving(sends(b"", 404)) as server:
        entry = BUCKET | {"aws_endpoint_url": server.address}
        answer = sd3tune("dataset", str(write([entry])))
        assert answer.returncode == 1 and server.asked == []
        assert "AWS_SESSION_TOKEN of the environment would be sent" in answer.stderr
        keys = {"aws_access_key_id": "mine", "aws_secret_access_key": "{env:MY_S3_KEY}"}
        answer = sd3tune("dataset", str(write([entry | keys])))
        assert answer.returncode == 1 and server.asked and "s3://pictures" in answer.stderr
        assert SECRET not in "".join(server.asked)


def test_the_host_of_a_bucket_is_named_before_it_is_asked(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("s3fs")
    with serving(sends(b"", 403)) as server:
        path = write([BUCKET | {"aws_endpoint_url": server.address}])
        answer = sd3tune("dataset", str(path))
        assert answer.returncode == 1 and server.asked
        lines = answer.stderr.splitlines()
        assert lines[0] == f"contacts {server.host} (aws_endpoint_url) for dataset `b`"
        assert lines[-2].startswith("error: ") and "?" not in lines[-2]
    assert os.environ["HF_TOKEN"] == SECRET
    named = source_of(dataset(project, instance_data_dir=None, **{k: v for k, v in BUCKET.items() if k != "id"},
                              aws_region_name="eu-west-3")).contacts()  # fmt: skip
    assert named == ["s3.eu-west-3.amazonaws.com (aws_bucket_name)"]
    hub = dataset(project, instance_data_dir=None, type="huggingface", dataset_name="a/b",
                  caption_strategy="huggingface")  # fmt: skip
    assert source_of(hub).contacts() == ["huggingface.co (dataset_name)"]
