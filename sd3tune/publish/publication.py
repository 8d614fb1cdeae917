"""Publishing a run that has ended: its model card on the disk, and its files on the hub."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sd3tune import __version__
from sd3tune.config.repositories import as_name, is_model_id
from sd3tune.filesystem import drafts, opening
from sd3tune.formats import manifest
from sd3tune.plan.plan import Plan
from sd3tune.publish import card
from sd3tune.publish.card import Ended
from sd3tune.publish.login import Destination
from sd3tune.publish.published_files import PublishedFile, files_of_checkpoint, files_of_run
from sd3tune.publish.receipt import Receipt
from sd3tune.publish.uploading import PATIENT, Patience, upload

SETTINGS_SCHEMA = 1


@dataclass(frozen=True)
class Published:
    """What one call has uploaded; files: 0 where the hub had everything."""

    files: int
    destination: Destination

    @property
    def sentence(self) -> str:
        """For the user."""
        if not self.files:
            return f"published already: {self.destination.address} has every file of the run"
        files = "1 file" if self.files == 1 else f"{self.files} files"
        return f"published {files} at {self.destination.address}"


def write_card(plan: Plan, ended: Ended) -> Path | None:
    """Writes the card and the settings of training into output_dir. None where a card of somebody
    else is there, which stays. Raises OSError."""
    output = plan.output_dir
    facts = {
        "schema": SETTINGS_SCHEMA,
        "sd3tune": __version__,
        "model": plan.model.name,
        "settings": dict(plan.publishing.settings),
    }
    drafts.write(output / card.SETTINGS, f"{json.dumps(facts, indent=1)}\n".encode())
    page = output / card.FILE
    if page.exists() and not is_written_here(page):
        return None
    drafts.write(page, card.card(plan, ended).encode("utf-8", "backslashreplace"))
    return page


def is_written_here(page: Path) -> bool:
    """Whether a run wrote the card, and nobody has taken it over since."""
    try:
        return card.MARK in opening.text(page)
    except (OSError, UnicodeDecodeError):
        return False


def publish(
    output: Path,
    destination: Destination,
    *,
    checkpoints: bool = False,
    patience: Patience = PATIENT,
) -> Published:
    """Uploads what the hub does not have of a finished run: checkpoints first, then the result with
    its card in one commit. Raises PublishError, and DataError for a folder without a result."""
    receipt = Receipt(output, destination.address)
    count = 0
    for folder in checkpoints_of(output) if checkpoints else ():
        files = files_of_checkpoint(folder)
        count += upload(files, destination, receipt, folder.name, patience)
    files = files_of_run(output, destination.repository)
    count += upload(files, destination, receipt, message(files), patience)
    return Published(count, destination)


def checkpoints_of(output: Path) -> list[Path]:
    """Checkpoints of sd3tune in output_dir, lowest step first."""
    return [folder for folder in manifest.folders(output) if manifest.is_ours(folder)]


def message(files: Sequence[PublishedFile]) -> str:
    """Of the commit of a result."""
    return f"Result of sd3tune {__version__}: {files[0].name}"


def named_by_run(output: Path) -> str:
    """The repository that the settings of a run name, as its newest checkpoint has them; empty
    where none does."""
    for folder in reversed(checkpoints_of(output)):
        try:
            settings = opening.json_object(folder / "plan.json").get("config")
        except (OSError, ValueError):
            continue
        if isinstance(settings, dict):
            name = settings.get("hub_model_id") or as_name(str(settings.get("output_name") or ""))
            return str(name) if is_model_id(str(name)) else ""
    return ""
