"""Files and folders of a run."""

from pathlib import Path

from sd3tune.config.fields import Settings


class FolderSettings(Settings):
    """Files and folders of a run."""

    output_dir: Path
    """The folder for the adapter, checkpoints, pictures and caches."""
    data_backend_config: Path
    """The list of datasets."""
    user_prompt_library: Path | None = None
    """JSON of {shortname: prompt}: one validation picture each."""
