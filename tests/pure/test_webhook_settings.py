"""`webhook_config` in each of its forms, what is refused in it, and that no secret is shown."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sd3tune.config.config import Config
from sd3tune.config.settings.webhooks import Webhook
from sd3tune.errors import ConfigError
from sd3tune.urls import redacted

KEY = "s3cret-key"
DISCORD = {"webhook_type": "discord", "webhook_url": f"https://discord.com/api/webhooks/1/{KEY}"}
RAW = {"webhook_type": "raw", "callback_url": f"http://receiver.example:8000/{KEY}"}
Load = Callable[..., Config]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    monkeypatch.chdir(tmp_path)
    Path("config").mkdir()

    def loaded(written: Any, *words: str) -> Config:
        settings = {"output_dir": "out", "max_train_steps": 1, "webhook_config": written}
        Path("config/config.json").write_text(json.dumps(settings))
        return Config.load(Path("config/config.json"), words)

    return loaded


def types(config: Config) -> list[str]:
    return [w.webhook_type for w in config.webhook_config]


def test_an_object_a_list_json_text_and_a_file_mean_the_same(load: Load) -> None:
    assert types(load(RAW)) == ["raw"]
    assert types(load([DISCORD, RAW])) == ["discord", "raw"]
    assert types(load(json.dumps([DISCORD, RAW]))) == ["discord", "raw"]
    Path("config/hooks.json").write_text(json.dumps([RAW, DISCORD]))
    assert types(load("config/hooks.json")) == ["raw", "discord"]
    Path("one.json").write_text(json.dumps(DISCORD))
    assert types(load(RAW, "webhook_config=one.json")) == ["discord"]
    assert types(load(None, f"webhook_config={json.dumps(RAW)}")) == ["raw"]
    path = Path("config/config.env")
    path.write_text(f"export OUTPUT_DIR=o\nMAX_NUM_STEPS=1\nWEBHOOK_CONFIG='{json.dumps(RAW)}'\n")
    assert types(Config.load(path)) == ["raw"]


@pytest.mark.parametrize("off", [None, "", "none", False, [], {}, "[]"])
def test_no_webhook_is_asked_for(load: Load, off: Any) -> None:
    assert load(off).webhook_config == ()


def test_a_program_may_give_objects_too() -> None:
    config = Config(output_dir=Path("/o"), data_backend_config=Path("/d"), max_train_steps=1,
                    webhook_config=DISCORD)  # fmt: skip
    assert isinstance(config.webhook_config[0], Webhook)


WRONG: list[tuple[Any, str, str]] = [
    ("gone.json", "no such file of webhooks", "example"),
    ("{x", "`webhook_config` is not JSON", '"webhook_type"'),
    (3, "a webhook must be an object", '"webhook_type"'),
    ([RAW, "x"], "a webhook must be an object", '"webhook_type"'),
    ({"callback_url": "http://h"}, "`webhook_type` is missing", "discord"),
    (RAW | {"webhook_type": "slack"}, "`webhook_type=slack` must be one of 'discord', 'raw'", ""),
    ({"webhook_type": "raw"}, "`callback_url` is missing", "address"),
    ({"webhook_type": "discord"}, "`webhook_url` is missing", "Integrations"),
    (RAW | {"webhook_type": "discord"}, "`callback_url` belongs to webhook_type=raw", "webhook_"),
    (DISCORD | {"webhook_type": "raw"}, "`webhook_url` belongs to webhook_type=discord", "call"),
    (DISCORD | {"auth_token": KEY}, "`auth_token` belongs to webhook_type=raw", "its key"),
    (DISCORD | {"bearer_token": KEY}, "`bearer_token` belongs to webhook_type=raw", "its key"),
    (RAW | {"callback_url": DISCORD["webhook_url"]}, "is a webhook of Discord", "=discord"),
    (RAW | {"callback_url": f"ftp://{KEY}"}, "`callback_url=…` must be an address", ""),
    (RAW | {"callback_url": f"http://me:{KEY}@h/"}, "without user name", ""),
    (RAW | {"callback_url": [KEY]}, "`callback_url=…` must be text", ""),
    (RAW | {"auth_token": f"{KEY}\nX: y"}, "`auth_token=…` must be printable ASCII", "X-API-Key"),
    (RAW | {"bearer_token": f"ü{KEY}"}, "`bearer_token=…` must be printable ASCII", "Bearer"),
    (RAW | {"token": KEY}, "`token=…` is not a key of a webhook", "auth_token"),
    (RAW | {"url": KEY}, "`url=…` is not a key of a webhook", "callback_url"),
    (RAW | {"log_levl": "info"}, "unknown setting `log_levl`", "log_level"),
    (RAW | {"log_level": "loud"}, "`log_level=loud` must be one of", "debug"),
    (RAW | {"message_prefix": "x" * 101}, "`message_prefix=xxx", "in front"),
    (RAW | {"ssl_no_verify": True}, "`ssl_no_verify` is set, and an http address", "https"),
    (RAW | {"allow_link_local": "perhaps"}, "`allow_link_local=perhaps` must be true", "metadata"),
]  # fmt: skip


@pytest.mark.parametrize("written, problem, hint", WRONG, ids=lambda v: str(v)[:50])
def test_what_is_wrong_is_said_without_the_secret(
    load: Load, written: Any, problem: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as e:
        load(written)
    (found,) = e.value.problems
    assert problem in found.message and hint in found.hint and KEY not in str(found)
    assert found.message.startswith(("`config/config.json`: `webhook_config", "no such file"))


def test_all_problems_of_a_file_are_reported_each_with_its_webhook(load: Load) -> None:
    Path("hooks.json").write_text(
        json.dumps([RAW | {"log_level": "x"}, RAW, {"webhook_type": "raw"}])
    )
    with pytest.raises(ConfigError) as e:
        load("hooks.json")
    first, second = (p.message for p in e.value.problems)
    assert "hooks.json`: webhook 1: `log_level=x`" in first
    assert "hooks.json`: webhook 3: `callback_url` is missing" in second


def test_plans_and_checkpoints_hold_no_secret(load: Load) -> None:
    config = load([DISCORD, RAW | {"auth_token": KEY, "bearer_token": KEY}])
    dumped = json.dumps(config.to_json(), ensure_ascii=False) + repr(config) + str(config)
    assert KEY not in dumped and "https://discord.com/…" in dumped
    assert KEY in config.webhook_config[0].url


def test_a_broken_line_of_json_is_shown_without_its_secret(load: Load) -> None:
    Path("hooks.json").write_text('{"webhook_type": "raw", "auth_token": "' + KEY + '" "x": 1}')
    with pytest.raises(ConfigError, match=r"hooks\.json:1:\d+` is not JSON") as e:
        load("hooks.json")
    assert KEY not in str(e.value) and '"auth_token": "…' in str(e.value)


def test_a_variable_of_the_environment_must_be_named_as_a_webhooks(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"MY_WEBHOOK": RAW["callback_url"], "HF_TOKEN": KEY, "PLAIN": "x"}.items():
        monkeypatch.setenv(name, value)
    (mine,) = load(RAW | {"callback_url": "{env:MY_WEBHOOK}"}).webhook_config
    assert mine.url == RAW["callback_url"]
    Path("hooks.json").write_text(json.dumps(RAW | {"auth_token": "{env:HF_TOKEN}"}))
    for written in (RAW | {"bearer_token": "{env:HF_TOKEN}"}, "hooks.json",
                    json.dumps([RAW | {"auth_token": "{env:HF_TOKEN}"}]),
                    RAW | {"message_prefix": "{env:PLAIN}"}):  # fmt: skip
        with pytest.raises(ConfigError, match="does not look like a webhook's") as e:
            load(written)
        assert KEY not in str(e.value) and "DISCORD_WEBHOOK" in e.value.hint


@pytest.mark.parametrize(
    "text, shown",
    [
        (f"no: https://discord.com/api/webhooks/12/{KEY}?wait=1", "no: https://discord.com/api/webhooks/…"),
        (f"url: /api/v10/webhooks/12/{KEY}, sorry", "url: /api/v10/webhooks/… sorry"),
        (f"https://hooks.slack.com/services/T/{KEY} is down", "https://hooks.slack.com/… is down"),
    ],
)  # fmt: skip
def test_addresses_of_webhooks_are_cut_before_their_key(text: str, shown: str) -> None:
    assert redacted(text) == shown
