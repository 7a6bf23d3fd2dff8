"""What a job would have to fetch from the hub before it can start; nothing is fetched to know."""

from __future__ import annotations

from pathlib import Path

from ..configs.data import DataConfig
from ..configs.schema import DEMO_ENCODER, BackboneConfig
from .model_files import HUB_PATTERNS
from .sources import published_tables
from .sources.pair import DataError


def to_download(data: DataConfig, backbone: BackboneConfig) -> list[str]:
    """Data sets and weights that are not in the local cache, with their sizes where known."""
    found: list[str] = []
    unanswered: str | None = None
    for table in published_tables(data):
        if unanswered is None:
            try:
                wanted = table.to_download()
            except DataError as error:
                unanswered = str(error)
        if unanswered is not None:
            wanted = f"{table.where}, size not known"
        if wanted is not None:
            found.append(wanted)
    if unanswered is not None:
        found.append(f"is not certain: {unanswered}")
    model = _model(backbone)
    return found if model is None else [*found, model]


def _model(config: BackboneConfig) -> str | None:
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
        return None  # loading it says what is wrong with the name
    except LocalEntryNotFoundError:
        pass
    try:
        info = HfApi().model_info(config.name, revision=config.revision, files_metadata=True)
    except Exception as error:  # whatever hinders it, the weights are not here
        return f"{name}, size not known ({type(error).__name__})"
    files = [file for file in info.siblings or [] if file.rfilename.endswith(".safetensors")]
    return f"{name}, {sum(file.size or 0 for file in files) / 1e6:,.0f} MB"
