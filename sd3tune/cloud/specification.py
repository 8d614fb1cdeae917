"""A specification as text: what it assumes, in a comment at the head, and YAML."""

import textwrap
from collections.abc import Iterable
from typing import Any

from sd3tune.cloud.cloud_job import REGISTRY, CloudJob
from sd3tune.cloud.engine_row import Choices, Engine
from sd3tune.errors import ConfigError, HardwareError

WIDTH = 100


def specification(engine: Engine, job: CloudJob, choices: Choices, file: str) -> str:
    """The text of the file. file: its name, for the command that starts it. Raises HardwareError
    for a card that the engine has no name for, ConfigError for a choice that it does not have."""
    refuse_choices(engine, choices)
    if not engine.card(job):
        raise HardwareError(
            f"{engine.title} has no name for {job.chip.name}: it cannot be asked for one",
            hint="name another --card, or another engine",
        )
    documents = "---\n".join(yaml_text(document) for document in engine.documents(job, choices))
    return head(engine, job, choices, file) + documents


def refuse_choices(engine: Engine, choices: Choices) -> None:
    """Raises ConfigError for an option that would do nothing."""
    for name in ("store", "queue", "on_demand"):
        if getattr(choices, name) and name not in engine.takes:
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(
                f"{option} does nothing for {engine.title}", hint=f"leave {option} out"
            )


def head(engine: Engine, job: CloudJob, choices: Choices, file: str) -> str:
    """The comment at the head: what it is, how it is started, and what it assumes."""
    what = (
        f"{engine.title}: {job.cards} x {job.chip.name}, {job.host_gib} GiB of host memory, "
        f"{job.disk_gib} GiB of disk. Written by `sd3tune cloud write`; checked against "
        f"{engine.checked}; not run there by us. docs/guides/clouds.md"
    )
    stands = f"{REGISTRY} stands for your own image: `sd3tune image build`, then push it."
    own = [stands] if job.image.startswith(REGISTRY) else []
    lines = [*_wrapped(what), f"#   {engine.start(job, file)}", "# It assumes:"]
    for sentence in (*own, *engine.assumes(job, choices)):
        lines += _wrapped(sentence, "# * ", "#   ")
    return "\n".join(lines) + "\n"


def yaml_text(document: Any) -> str:
    """One document as YAML, keys in their order, texts of several lines as blocks."""
    import yaml

    class Dumper(yaml.SafeDumper):  # type: ignore[misc]
        """Without anchors, and with indented lists."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

        def increase_indent(self, flow: bool = False, indentless: bool = False) -> Any:
            return super().increase_indent(flow, False)

    Dumper.add_representer(str, _text)
    text: str = yaml.dump(
        document, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=float("inf")
    )
    return text


def _text(dumper: Any, text: str) -> Any:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _wrapped(sentence: str, first: str = "# ", rest: str = "# ") -> Iterable[str]:
    return textwrap.wrap(
        sentence, WIDTH, initial_indent=first, subsequent_indent=rest, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
