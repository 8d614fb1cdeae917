"""Files and folders of a run."""

from pathlib import Path

from sd3tune.config.fields import Settings


class FolderSettings(Settings):
    """Files and folders of a run."""

    output_dir: Path
    """Adapter, checkpoints, pictures and caches go here."""
    data_backend_config: Path
    """The list of datasets. Left out: multidatabackend.json beside the configuration file."""
    user_prompt_library: Path | None = None
    """JSON of {shortname: prompt}: one validation picture each."""
