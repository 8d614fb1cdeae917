"""Doctor names the hub, and says which accounts there are, without showing or using them."""

from pathlib import Path

import pytest

from sd3tune.doctor import logins

TOKEN, KEY = "hf_planted_token", "0123456789" * 4


def test_the_address_of_the_hub_is_shown_without_its_password() -> None:
    mirror = logins.address("https://me:planted@hf-mirror.com", set_by_user=True)
    assert (mirror.status, mirror.source) == ("ok", "HF_ENDPOINT")
    assert "https://hf-mirror.com" in mirror.fact and "planted" not in mirror.fact
    assert logins.address("https://huggingface.co", set_by_user=False).source != "HF_ENDPOINT"


@pytest.mark.parametrize("endpoint", ["hf-mirror.com", "http://", "ftp://hf-mirror.com", ""])
def test_an_address_that_no_hub_can_have_is_a_warning_with_a_command(endpoint: str) -> None:
    found = logins.address(endpoint, set_by_user=True)
    assert found.status == "warn" and "export HF_ENDPOINT=https://" in found.fix


def test_a_look_says_where_the_token_is_and_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    found = {f.id: f for f in logins.findings(ask=False)}
    login = found["hub.login"]
    assert (login.status, login.source) == ("skip", "HF_TOKEN") and "not checked" in login.fact
    assert {"hub.endpoint", "hub.login", "hub.cache", "wandb.login"} == found.keys()
    assert TOKEN not in str(found)


def test_the_login_of_weights_and_biases_is_named_and_never_shown(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    assert logins.wandb(home, installed=False).fact.startswith("not installed")
    without = logins.wandb(home, installed=True)
    assert without.status == "skip" and "no key for api.wandb.ai" in without.fact
    assert "`wandb login`" in without.fact
    variable = logins.wandb(home | {"WANDB_API_KEY": KEY}, installed=True)
    assert (variable.status, variable.source) == ("ok", "WANDB_API_KEY")
    file = tmp_path / ".netrc"
    file.write_text(f"machine api.wandb.ai\n  login user\n  password {KEY}\n")  # `wandb login`
    written = logins.wandb(home, installed=True)
    assert (written.status, written.source) == ("ok", str(file))
    own = logins.wandb(home | {"WANDB_BASE_URL": "https://wandb.example:8080"}, installed=True)
    assert own.status == "skip" and "no key for wandb.example" in own.fact
    off = logins.wandb(home | {"WANDB_MODE": "offline", "WANDB_API_KEY": KEY}, installed=True)
    assert (off.status, off.source) == ("skip", "WANDB_MODE")
    assert not any(KEY in str(f) for f in (without, variable, written, own, off))
