"""Facts of another machine, from what its `sd3tune doctor --json` printed or `--report` wrote."""

import json
from dataclasses import replace
from pathlib import Path

from sd3tune.backends.facts import Facts, from_json
from sd3tune.errors import ConfigError


def facts(path: Path) -> Facts:
    """Raises ConfigError when the file is not such a document."""
    try:
        found = from_json(Facts, json.loads(path.read_text("utf-8"))["facts"])
    except OSError as e:
        raise ConfigError(
            f"`{path}` cannot be read: {e.strerror}",
            hint="--on takes a chip's name, or a file written by `sd3tune doctor --json`",
        ) from None
    except (ValueError, KeyError, TypeError):  # not JSON, or another document
        raise ConfigError(
            f"`{path}` is not what `sd3tune doctor --json` prints",
            hint="run `sd3tune doctor --json > machine.json` or `--report machine.json` there",
        ) from None
    return replace(found, origin="recorded")
