"""The options of `sd3tune image run` as they are typed, and the container they describe."""

import ipaddress
import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sd3tune.containers import host_image
from sd3tune.containers.container_spec import HUB, SHM, WORKSPACE, Container, Port
from sd3tune.containers.host_image import Kind
from sd3tune.errors import ContainerError

HOST_HUB = "~/.cache/huggingface"
# Of the caller's environment; what else is wanted is named with --env.
FORWARDED = "HF_TOKEN HF_ENDPOINT HF_HUB_OFFLINE HTTP_PROXY HTTPS_PROXY NO_PROXY NO_COLOR".split()
# Of Hugging Face's folder: downloaded files, and nothing of who downloaded them.
SHARED = ("hub", "xet")
YES = ("1", "ON", "YES", "TRUE")


@dataclass(frozen=True)
class RunOptions:
    """image: its tag; None: that of the vendor. variables: of --env. terminal: the container gets
    a pseudo-terminal."""

    image: str | None = None
    gpus: str = "all"
    cpu: bool = False
    network: str | None = None
    workspace: Path = Path()
    variables: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    user: str | None = None
    shm_size: str = SHM
    terminal: bool = False


def container(
    kind: Kind, arguments: tuple[str, ...], options: RunOptions, info: Mapping[str, Any]
) -> Container:
    """arguments: for the image's entrypoint. info: what the engine says about itself; empty where
    it was not asked. Raises ContainerError for an option that cannot be understood or granted."""
    cards = host_image.cards(kind, options.gpus)
    token = token_file(os.environ)
    known = {**os.environ, **({"HF_TOKEN": token.read_text().strip()} if token else {})}
    ours = {"HF_HOME": HUB} | ({"SD3TUNE_BACKEND": "cpu"} if options.cpu else {})
    theirs, outer = environment(FORWARDED, options.variables, known)
    mounts = folders(options.mounts)
    access = host_image.Access() if options.cpu else host_image.access(kind, cards, info)
    return Container(
        image=options.image or f"sd3tune:{kind}",
        words=arguments,
        access=access,
        environment=ours | theirs,
        outer=outer,
        user=options.user or caller(info),
        network=options.network,
        ports=tuple(port(p) for p in options.ports),
        shm=memory(options.shm_size),
        terminal=options.terminal,
        token_file=token if "HF_TOKEN" in outer else None,
        mounts={
            WORKSPACE: options.workspace.resolve(),
            **shared_mounts(shared_hub(os.environ)),  # last: it creates folders
            **mounts,
        },
    )


def environment(
    names: Sequence[str], given: Sequence[str], outer: Mapping[str, str]
) -> tuple[dict[str, str], frozenset[str]]:
    """Variables of the container, and the names of those copied from the caller's environment.
    Each of `names` is copied when it is set. In `given`, NAME copies a variable and NAME=VALUE sets
    one. Raises ContainerError for a NAME that is not set, and for an empty one."""
    found = {name: outer[name] for name in names if outer.get(name)}
    inherited = set(found)
    for word in given:
        name, equals, value = word.partition("=")
        if not name:
            raise ContainerError(f"--env {word}", hint="NAME or NAME=VALUE, as in --env HF_TOKEN")
        if not equals and name not in outer:
            words = f"--env {name}: this variable is not set here"
            raise ContainerError(words, hint=f"export {name}=…, or say --env {name}=VALUE")
        found[name] = value if equals else outer[name]
        inherited = inherited - {name} if equals else inherited | {name}
    return found, frozenset(inherited)


def folders(given: Sequence[str]) -> dict[str, Path]:
    """Of OUTER:INNER, as `docker run -v` takes them. Raises ContainerError."""
    found: dict[str, Path] = {}
    for word in given:
        outer, colon, inner = word.rpartition(":")
        if not colon or not inner.startswith("/") or not Path(outer).is_dir():
            hint = "an existing folder and where it goes: --mount /data/images:/images"
            raise ContainerError(f"--mount {word}", hint=hint)
        place = posixpath.normpath(inner)
        if place in found or place in (WORKSPACE, HUB, *(f"{HUB}/{name}" for name in SHARED)):
            hint = f"another; {WORKSPACE} is what --workspace says, {HUB} what HF_HOME says"
            raise ContainerError(f"--mount {word}: {place} is taken", hint=hint)
        found[place] = Path(outer).resolve()
    return found


def shared_hub(outer: Mapping[str, str]) -> Path:
    """The host's Hugging Face folder, created where it is missing, so that weights are downloaded
    only once. Raises ContainerError."""
    said = outer.get("HF_HOME") or HOST_HUB
    try:
        folder = Path(said).expanduser().resolve()
        for name in SHARED:
            (folder / name).mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as e:  # RuntimeError: the user has no home
        words = f"Hugging Face's folder `{said}` cannot be created: {e}"
        raise ContainerError(words, hint="export HF_HOME=FOLDER that you may write to") from None
    return folder


def shared_mounts(hub: Path) -> dict[str, Path]:
    """The parts of Hugging Face's folder that a container gets. Its `token` and `stored_tokens` are
    files beside them, and stay outside."""
    return {f"{HUB}/{name}": (hub / name).resolve() for name in SHARED}


def token_file(outer: Mapping[str, str]) -> Path | None:
    """Where `hf auth login` left a token, when no HF_TOKEN is set: the container gets that variable
    in place of the file. None also where Hugging Face's own switch says so."""
    if outer.get("HF_TOKEN") or outer.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").upper() in YES:
        return None
    said = outer.get("HF_TOKEN_PATH") or f"{outer.get('HF_HOME') or HOST_HUB}/token"
    try:
        path = Path(said).expanduser().resolve()
        return path if path.read_text().strip() else None
    except (OSError, ValueError, RuntimeError):  # RuntimeError: the user has no home
        return None


def memory(word: str) -> str:
    """A size as docker takes it, of /dev/shm. Raises ContainerError."""
    if not re.fullmatch(r"[1-9]\d*([bkmgt]b?)?", word, re.ASCII | re.IGNORECASE):
        raise ContainerError(f"--shm-size {word}", hint="a size: --shm-size 16g, or 512m")
    return word


def port(word: str) -> Port:
    """[ADDRESS:]OUTER:INNER, as `docker run -p` takes them. Raises ContainerError."""
    outer, _, inner = word.rpartition(":")
    address, _, number = outer.rpartition(":")
    address = address.removeprefix("[").removesuffix("]")
    try:
        if address:
            ipaddress.ip_address(address)
        found = Port(address, int(number), int(inner))
    except ValueError:
        found = Port("", 0, 0)
    if not all(0 < n < 65536 for n in found[1:]):
        hint = "two numbers: --publish 8888:8888, or 127.0.0.1:8888:8888 for this host alone"
        raise ContainerError(f"--publish {word}", hint=hint)
    return found


def rootless(info: Mapping[str, Any]) -> bool:
    """Whether the engine runs without root, from what it says about itself."""
    return any("rootless" in str(option) for option in info.get("SecurityOptions") or ())


def caller(info: Mapping[str, Any]) -> str | None:
    """UID:GID for --user, so that files belong to the caller; None for root, and under a rootless
    engine, where root inside is the user outside."""
    return None if rootless(info) or os.getuid() == 0 else f"{os.getuid()}:{os.getgid()}"
