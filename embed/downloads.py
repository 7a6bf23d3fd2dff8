"""What a job would have to download from the Hub before it can start."""

from __future__ import annotations

from pathlib import Path

from ..configs.data import DataConfig
from ..configs.schema import DEMO_ENCODER, BackboneConfig
from .model_files import HUB_PATTERNS
from .sources import published_tables
from .sources.pair import DataError


def to_download(data: DataConfig, backbone: BackboneConfig) -> list[str]:
    """Describe the data sets and weights that are not in the local cache, with sizes where known.

    Only metadata is requested from the Hub. If it does not answer, every data set is listed and
    the last line says why that is not certain.
    """
    downloads: list[str] = []
    hub_error: str | None = None
    for table in published_tables(data):
        if hub_error is None:
            try:
                download = table.to_download()
            except DataError as error:
                hub_error = str(error)
        if hub_error is not None:
            download = f"{table.where}, size not known"
        if download is not None:
            downloads.append(download)
    if hub_error is not None:
        downloads.append(f"is not certain: {hub_error}")
    model = _model_download(backbone)
    return downloads if model is None else [*downloads, model]


def _model_download(config: BackboneConfig) -> str | None:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    if config.name == DEMO_ENCODER or Path(config.name).is_dir():
        return None
    name = f"{config.name}@{config.revision[:12]}"
    try:
        directory = snapshot_download(
            config.name,
            revision=config.revision,
            allow_patterns=HUB_PATTERNS,
            local_files_only=True,
        )
        if any(Path(directory).glob("*.safetensors")):
            return None
    except HFValidationError:
        return None  # the loader of the model explains what is wrong with the name
    except LocalEntryNotFoundError:
        pass
    try:
        info = HfApi().model_info(config.name, revision=config.revision, files_metadata=True)
    except Exception as error:  # whatever the reason, the weights are not here
        return f"{name}, size not known ({type(error).__name__})"
    files = [file for file in info.siblings or [] if file.rfilename.endswith(".safetensors")]
    return f"{name}, {sum(file.size or 0 for file in files) / 1e6:,.0f} MB"
