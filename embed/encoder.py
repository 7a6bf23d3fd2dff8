"""A backbone with its tokenizer, and the identity of the vectors that they compute."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..cache.schema import Identity
from ..common.errors import ConfigError
from ..configs.resolve import resolve_backbone
from ..configs.schema import BackboneConfig, EmbedConfig
from .backbone import TorchBackbone
from .chat import Renderer
from .model_files import ModelFiles, find_model

LAYER = "last_hidden_state"


@dataclass(frozen=True)
class Encoder:
    """Everything that turns text into vectors, and the identity of these vectors.

    The tokenizer is loaded at once, the weights when they are first used.

    Attributes:
        requested: Settings of the backbone, in which values may be "auto"; see ``config``.
        files: The backbone's files.
        tokenizer: Its transformers tokenizer.
        settings: Settings of the embedding stage.
    """

    requested: BackboneConfig
    files: ModelFiles
    tokenizer: Any
    settings: EmbedConfig

    @cached_property
    def backbone(self) -> TorchBackbone:
        """The model, loaded onto its device."""
        return TorchBackbone(
            self.files.directory,
            self.requested,
            device=self.settings.device,
            bin_tokens=self.settings.bin_tokens,
            share=self.settings.share_prefixes,
        )

    @cached_property
    def config(self) -> BackboneConfig:
        """The settings of the backbone, with every "auto" resolved; loads the model."""
        return resolve_backbone(self.requested, self.backbone)

    @cached_property
    def renderer(self) -> Renderer:
        """Turns conversations into token ids."""
        return Renderer(self.tokenizer, self.config)

    @cached_property
    def identity(self) -> Identity:
        """The identity of every vector of this encoder, which a store compares with its own."""
        return Identity(
            backbone=self.config.name,
            revision=self.files.revision,
            weights=self.files.weights_sha256,
            tokenizer=self.files.tokenizer_sha256,
            template=self.renderer.template_hash(),
            probe=self.renderer.probe_hash(),
            bos=self.config.bos,
            pooling=self.backbone.pooling,
            layer=LAYER,
            dtype=self.backbone.dtype,
            max_length=self.backbone.max_length,
        )


def load_encoder(config: BackboneConfig, settings: EmbedConfig) -> Encoder:
    """Find or download the backbone's files and load its tokenizer.

    Raises ``ConfigError`` if the backbone cannot be found or does not support the settings.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    from transformers import AutoTokenizer

    files = find_model(config)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            files.directory, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"backbone.name: {files.directory} has no usable tokenizer: {error}"
        ) from error
    Renderer(tokenizer, config)  # refuses unsupported settings before the weights are loaded
    return Encoder(config, files, tokenizer, settings)
