"""`{env:NAME}` and other placeholders in configuration files, and which settings may hold them.

Configuration files are shared. A value from the environment never goes into a setting that is sent
to another machine in the clear. It may go into credentials; and, when its name does not look like a
secret, into settings that stay on this machine.
"""

import os
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any

from sd3tune.config.problems import shown, sound
from sd3tune.errors import ConfigError

PLACEHOLDER = re.compile(r"\{env:([^}]*)\}")
# Parts of names, then words between underscores. TOKENIZERS_PARALLELISM is not a token.
SECRET = re.compile(
    r"TOKEN(?!IZER)|SECRET|PASSW|PASSPHRASE|CREDENTIAL|KEY|COOKIE|PRIVATE|BEARER|SIGNATURE|WEBHOOK|"
    r"^AWS_|(?:^|_)(?:AUTH|PASS|PW|PAT|JWT|DSN|OTP|URL|URI|ACCESS)(?:_|$)|(?<=_)PWD(?:_|$)"
)
ANY = re.compile("")
ACCESS_ID = re.compile(r"^(?!.*(TOKEN|SECRET|PASSW|API)).*(ACCESS_?(KEY|ID)|KEY_?ID|_USER)")
# A shared file must not send the secrets of other services to an address that it names.
WEBHOOK_VARIABLE = re.compile("WEBHOOK|DISCORD|CALLBACK")
LIKE = {  # what the variable of a credential must look like, and names that do
    ACCESS_ID: ("an access key id's", "AWS_ACCESS_KEY_ID or MINIO_ROOT_USER"),
    WEBHOOK_VARIABLE: ("a webhook's", "WEBHOOK_URL, DISCORD_WEBHOOK or CALLBACK_TOKEN"),
}


@dataclass(frozen=True)
class Allowed:
    """Where values of the environment may stand in a file."""

    paths: Container[str] = ()  # folders and files of this machine, as `csv.path` inside objects
    either: Container[str] = ()  # a folder of this machine, or else a name that is sent somewhere
    credentials: Mapping[str, re.Pattern[str]] = field(default_factory=dict)  # and their variables
    others: bool = False  # whether settings of other kinds may hold what does not look secret
    sent: Container[str] = ()  # but these may not: a server hears of them


def looks_secret(name: str) -> bool:
    """Whether a variable's name says that its value is a secret."""
    return SECRET.search(name.upper()) is not None


def fill_in(
    values: Mapping[str, Any], where: str, words: Mapping[str, str], allowed: Allowed
) -> dict[str, Any]:
    """`{env:NAME}` and the placeholders in `words`, inside strings at any depth.

    Raises ConfigError naming `where`, key and variable.
    """
    return {key: _filled(value, key, where, words, allowed) for key, value in values.items()}


def _filled(value: Any, key: str, where: str, words: Mapping[str, str], allowed: Allowed) -> Any:
    if isinstance(value, str):
        return _text(value, key, where, words, allowed)
    if isinstance(value, list):
        return [_filled(v, key, where, words, allowed) for v in value]
    if isinstance(value, dict):
        return {k: _filled(v, f"{key}.{k}", where, words, allowed) for k, v in value.items()}
    return value


def _text(value: str, key: str, where: str, words: Mapping[str, str], allowed: Allowed) -> str:
    text = value
    for name, word in words.items():
        text = text.replace("{" + name + "}", word)
    for name in PLACEHOLDER.findall(text):
        _may_hold(name, key, where, allowed)
    local = "{output_dir}" in value or PLACEHOLDER.search(text) is not None
    text = PLACEHOLDER.sub(lambda m: _value(m[1], key, where), text)
    if local and key in allowed.either and not text.startswith(("/", "~", ".")):
        raise ConfigError(
            f"{where}: `{key}={shown(value)}` is not a path, and its value is sent to a server: "
            "values of this machine may not be part of it",
            hint=f"write the value of {key} itself; a folder begins with /, ~ or .",
        )
    if "{output_dir}" in value and "output_dir" in words and not _stays(key, allowed):
        raise ConfigError(
            f"{where}: `{key}={shown(value)}`: {{output_dir}} is a folder of this machine, and "
            f"{key} is not a path",
            hint=f"write the value of {key} itself",
        )
    return sound(text, where)


def _stays(key: str, allowed: Allowed) -> bool:
    """Whether a setting's value stays on this machine."""
    if key in allowed.paths or key in allowed.either:
        return True
    return allowed.others and key not in allowed.sent


def _may_hold(name: str, key: str, where: str, allowed: Allowed) -> None:
    pattern = allowed.credentials.get(key)
    if pattern is not None and pattern.search(name.upper()):
        return
    if _stays(key, allowed) and not looks_secret(name):
        return
    if pattern is not None:
        like, names = LIKE[pattern]
        raise ConfigError(
            f"{where}: `{key}` uses {{env:{shown(name)}}}: {key} is sent as it is, and the name of "
            f"this variable does not look like {like}",
            hint=f"name the variable like {names}",
        )
    why = "looks like a secret" if looks_secret(name) else "is a value of this machine"
    raise ConfigError(
        f"{where}: `{key}` uses {{env:{shown(name)}}}, which {why}: values of the environment go "
        "into credentials and local paths only",
        hint=f"write the value of {key} itself, or leave it out",
    )


def _value(name: str, key: str, where: str) -> str:
    if name not in os.environ:
        raise ConfigError(
            f"{where}: `{key}` uses {{env:{shown(name)}}}, and {shown(name)} is not set",
            hint=f"export {shown(name)}=…",
        )
    return os.environ[name]
