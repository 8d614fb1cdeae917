"""What a row of the table of engines holds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sd3tune.cloud.cloud_job import CloudJob

Document = Mapping[str, Any]
STORE = "sd3tune-project"  # the volume that holds the project


@dataclass(frozen=True)
class Choices:
    """What the user may choose beside the plan."""

    store: str | None = None  # bucket or volume that outlives the machine; None: the engine's usual
    queue: str | None = None
    on_demand: bool = False  # no machines that the cloud may take back


@dataclass(frozen=True)
class Engine:
    """One program that starts runs elsewhere.

    documents: the specification, as documents of one YAML file. card: what the engine calls the
    job's card; empty where it has no name for it. assumes: sentences for the head of the file.
    takes: options of `cloud write` that have an effect. checked: parser and version of the tests.
    """

    name: str
    title: str
    documents: Callable[[CloudJob, Choices], tuple[Document, ...]]
    card: Callable[[CloudJob], str]
    assumes: Callable[[CloudJob, Choices], tuple[str, ...]]
    start: Callable[[CloudJob, str], str]  # the command that starts the file of this name
    checked: str
    takes: frozenset[str] = frozenset({"store"})
    aliases: tuple[str, ...] = ()
