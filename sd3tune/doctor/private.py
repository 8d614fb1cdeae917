"""Removes from a report what identifies a person, a machine or a place.

Names, folders and secrets of this machine are found by their exact text; device identities and
network addresses are found by their form. Equal values get equal placeholders. Figures and the
words of the report stay.
"""

import os
import platform
import re
import socket
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any
from unicodedata import normalize
from urllib.parse import unquote, urlsplit

from sd3tune.backends.decide import chips
from sd3tune.backends.decide.options import AXES
from sd3tune.doctor.identities import BELOW, FORMS, LOGIN, PATHS, SYSTEM_PATH, URL

SECRET = re.compile(r"token|secret|key|passw|credential|auth|cookie", re.IGNORECASE)
# Names of variables whose value names a rented machine, a job or a company.
OWNER = re.compile(
    r"(?:^|_)(?:POD|NODE|INSTANCE|CONTAINER|CLUSTER|PROJECT|ACCOUNT|ORG|ORGANI[SZ]ATION|COMPANY"
    r"|TEAM|TENANT|CUSTOMER|CLIENT|MACHINE|WORKSPACE|NAMESPACE|BUCKET|VOLUME|JOB|HOST|DOMAIN|EMAIL)"
    r"_?(?:ID|UID|NAME|LABEL|LIST|HOST|HOSTNAME|DOMAIN|EMAIL|IP)?$"
    r"|^(?:RUNPOD|VAST|LAMBDA|PAPERSPACE|SLURM|SLURMD|K8S)_\w*(?:ID|NAME|LABEL|LIST|HOST|DNS)$"
    r"|CONTAINERLABEL$|NODENAME$|SUBMIT_HOST$"
)
USERS, HOSTS = ("USER", "LOGNAME", "USERNAME", "SUDO_USER"), ("HOSTNAME", "HOST", "COMPUTERNAME")
FOLDERS = ("HF_HOME", "HF_HUB_CACHE", "VIRTUAL_ENV", "CONDA_PREFIX", "TMPDIR", "OLDPWD", "PWD")
IDENTITIES = (
    *"uuid card_uuid hip_uuid serial serial_number asic_serial unique_id bus_id bdf".split(),
)
PUBLIC = (
    *"huggingface.co github.com pytorch.org nvidia.com amd.com apple.com pypi.org".split(),
    *"python.org docker.com docker.io ghcr.io nvcr.io readthedocs.io".split(),
)
SWITCHES = "true false none null auto default enabled disabled".split()
SHORTEST_SECRET, SHORTEST_NUMBER = 4, 6  # "1", "yes" and "on" say that something is switched on
SHORTEST_OWNER = 4
LONG = 5  # a shorter name is replaced as a whole word only: it may be part of any other


@cache
def vocabulary() -> set[str]:
    """Words that every report contains: names of chips, options and sd3tune's own terms. A user
    name that equals one of them stays, because it reveals nothing."""
    ours = [*AXES, *chips.keys(), *(name for c in chips.CHIPS for name in c.also_called)]
    ours += [option.name for options in AXES.values() for option in options]
    ours += "linux darwin root localhost cuda rocm mps cpu apple sm gfx warn fail ok skip".split()
    ours += "auto user users admin system administrator unknown device driver memory".split()
    ours += "measured catalog recorded nvidia amd torch python metal sd3tune git token".split()
    ours += "docker podman kubernetes runpod vast colab lambda gpu node pod container job".split()
    return {word for name in ours for word in re.findall(r"[a-z0-9]+", name.lower())}


@dataclass
class Private:
    """rules: the texts to replace, folders first, and longer texts before shorter ones."""

    rules: Sequence[tuple[re.Pattern[str], str]]
    seen: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, environ: Mapping[str, str], home: Path, here: Path, users: Iterable[str] = (),
        hosts: Iterable[str] = (),
    ) -> "Private":  # fmt: skip
        """What there is to hide in an environment and its folders."""
        called = [*(environ[n] for n in USERS if environ.get(n)), *users, home.name]
        called += [part for name in called for part in re.findall(r"[^\s.]{3,}", name)]
        names = {name: "<user>" for name in called if name}
        names |= {value: "<owner>" for name, value in environ.items() if _names_owner(name, value)}
        for host in (*hosts, *(environ[n] for n in HOSTS if environ.get(n))):
            names |= {part: "<host>" for part in (host, host.split(".")[0]) if part}
        secrets = {value: "<secret>" for name, value in environ.items()
                   if SECRET.search(name) and _is_secret(value)}  # fmt: skip
        for user, password, host in _logins(environ):
            names |= {name: "<user>" for name in (user, unquote(user)) if len(name) > 2}
            known = (password, unquote(password))
            secrets |= {word: "<secret>" for word in known if _is_secret(word)}
            names |= {} if _public(f"https://{host}") else {host: "<host>"}
        if (hub := environ.get("HF_ENDPOINT")) and not _public(hub):  # also without a scheme
            secrets |= {hub: "<url>"}
        places = {
            v: "<folder>" for n, v in environ.items() if v and (n in FOLDERS or _theirs_at(v))
        }
        places |= {sys.prefix: "<environment>", str(here): "<working directory>", str(home): "~"}
        real = {os.path.realpath(folder): word for folder, word in places.items()}
        folders = {f.rstrip("/"): w for f, w in (real | places).items() if f.startswith("/")}
        folders.pop("", None)
        rules = [*map(_folder, *_longest(folders)), *map(_secret, *_longest(secrets))]
        return cls([*rules, *map(_name, *_longest(_theirs(names)))])

    @classmethod
    def here(cls) -> "Private":
        """The names and folders of this process."""
        nodes = {socket.gethostname(), platform.node()}
        return cls.of(os.environ, Path.home(), Path.cwd(), _account(), nodes)

    def clean(self, value: Any, key: str = "") -> Any:
        """JSON data again."""
        if isinstance(value, dict):
            return {k: self.clean(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [self.clean(v, key) for v in value]
        if isinstance(value, str):
            text = self.text(value)
            known = key.lower() in IDENTITIES and text == value and value
            return self._numbered("serial", value, lambda n: f"<{key} {n}>") if known else text
        return value

    def text(self, words: str) -> str:
        words = normalize("NFC", words)  # macOS writes an umlaut as two characters
        words = URL.sub(lambda m: m.group() if _public(m.group()) else "<url>", words)
        for pattern, word in self.rules:
            words = pattern.sub(word, words)
        for pattern in PATHS:
            words = pattern.sub("<path>", words)
        words = BELOW.sub(r"\1/<path>", words)
        for form, pattern in FORMS.items():
            words = pattern.sub(partial(self._placeholder, form), words)
        return words

    def _placeholder(self, form: str, match: re.Match[str]) -> str:
        """Of the same form where a program reads it: recordings are still joined by them."""
        parts = {name: text for name, text in match.groupdict().items() if text}
        found = next(iter(parts.values()), match.group())
        before = match.group()[: -len(found)] if parts else ""
        if form == "secret":
            return "<secret>"
        if form == "ip6" and not _is_ip6(found):
            return found
        if form in ("host", "id") and (
            _public(f"https://{found}") or found.lower() in vocabulary()
        ):
            return match.group()
        if form == "uuid":
            return self._numbered(form, found, lambda n: f"00000000-0000-0000-0000-{n:012d}")
        if form == "card":
            return before + self._numbered(form, found, lambda n: f"{n:016x}")
        if form == "part":
            whole = {**self.seen.get("uuid", {}), **self.seen.get("card", {})}
            known = (word for uuid, word in whole.items() if uuid.startswith(found.lower()))
            return before + (next(known, None) or self._numbered(form, found, lambda n: f"<{n}>"))
        if form == "bus":
            zeros = "0" * len(found.split(":")[0])
            same = found[-12:].lower().rjust(12, "0")
            return zeros + self._numbered(form, same, lambda n: f":{n:02x}:00.0")
        return before + self._numbered(form, found, lambda n: f"<{form} {n}>")

    def _numbered(self, kind: str, found: str, word: Callable[[int], str]) -> str:
        known = self.seen.setdefault(kind, {})
        return known.setdefault(found.lower(), word(len(known) + 1))


def _names_owner(name: str, value: str) -> bool:
    """Whether a variable names a machine, a job or a company, and its value is a name."""
    plain = len(value) >= SHORTEST_OWNER and re.fullmatch(r"[\w.@:-]+", value) is not None
    return plain and OWNER.search(name) is not None and value.lower() not in SWITCHES


def _theirs_at(value: str) -> bool:
    """Whether the value of a variable is a folder that no system has, /opt/acme/models."""
    folder = re.fullmatch(r"(?:/[^/:\s]+){2,}/?", value) is not None
    return folder and SYSTEM_PATH.match(value) is None


def _is_secret(value: str) -> bool:
    """Whether a value is a secret, and not a switch such as TOKENIZERS_PARALLELISM=false or a small
    number."""
    long = len(value) >= (SHORTEST_NUMBER if value.isdigit() else SHORTEST_SECRET)
    return long and value.lower() not in SWITCHES


def _logins(environ: Mapping[str, str]) -> Iterable[tuple[str, str, str]]:
    """User, password and host of every URL in any variable: proxies, package indices, remotes."""
    return [login for value in environ.values() for login in LOGIN.findall(value)]


def _is_ip6(text: str) -> bool:
    try:
        found = IPv6Address(text.partition("%")[0])
    except ValueError:
        return False
    return not found.is_loopback and not found.is_unspecified


def _longest(words: Mapping[str, str]) -> tuple[list[str], list[str]]:
    names = sorted(words, key=len, reverse=True)
    return names, [words[n] for n in names]


def _theirs(words: Mapping[str, str]) -> dict[str, str]:
    """Without those that are words of ours, and without plain numbers."""
    return {n: w for n, w in words.items() if n.lower() not in vocabulary() and not n.isdigit()}


def _folder(path: str, word: str) -> tuple[re.Pattern[str], str]:
    escaped = re.escape(normalize("NFC", path)).replace(r"\ ", r"\\?\ ")  # as shells write it
    return re.compile(rf"(?<![\w.~-]){escaped}(?![\w.-])"), word


def _secret(value: str, word: str) -> tuple[re.Pattern[str], str]:
    """Wherever it turns up, and be it a word of ours."""
    return re.compile(re.escape(normalize("NFC", value))), word


def _name(name: str, word: str) -> tuple[re.Pattern[str], str]:
    pattern = re.escape(normalize("NFC", name))
    if len(name) < LONG:
        pattern = rf"(?<![A-Za-z0-9]){pattern}(?![A-Za-z0-9])"
    return re.compile(pattern, re.IGNORECASE), word


def _public(url: str) -> bool:
    try:
        place = urlsplit(url)
    except ValueError:
        return False
    host = place.hostname or ""
    known = any(host == p or host.endswith("." + p) for p in PUBLIC)
    return known and place.netloc == host and not place.query


def _account() -> set[str]:
    """The name of the account, and the person's when it is kept there."""
    try:
        import pwd

        entry = pwd.getpwuid(os.getuid())
    except (ImportError, KeyError):  # Windows; a container's user without an entry
        return set()
    return {entry.pw_name, *re.findall(r"\w{3,}", entry.pw_gecos)}
