"""A backbone with its tokenizer: conversations in, planned passes and vectors out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..cache.schema import Identity
from ..configs.schema import BackboneConfig
from .backbone import TorchBackbone
from .chat import Conversation, Renderer
from .planning import plan_batches, plan_passes
from .weights import ModelFiles, find_model

LAYER = "last_hidden_state"


@dataclass(frozen=True)
class Encoder:
    """Everything that turns text into vectors, and the identity that names it.

    The tokenizer is loaded at once, the weights when the first vector is asked for: planning and
    an interrupted run with nothing left to do never load them.
    """

    config: BackboneConfig
    files: ModelFiles
    renderer: Renderer
    device: str

    @cached_property
    def backbone(self) -> TorchBackbone:
        """The model, on its device."""
        return TorchBackbone(self.files.directory, self.config, device=self.device)

    @cached_property
    def identity(self) -> Identity:
        """The identity of every vector that this encoder makes."""
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
            dtype=self.config.dtype,
            max_length=self.config.max_length,
        )

    def encode(self, conversations: Sequence[Conversation], batch_tokens: int) -> np.ndarray:
        """Vectors of a few conversations (n, width), without a store.

        Raises ``OverlongError`` where ``backbone.overlong`` does not allow to shorten.
        """
        from ..cache.schema import sequence_key

        tokens = self.renderer.token_ids(conversations)
        fitted = [
            self.renderer.fit(item, ids) for item, ids in zip(conversations, tokens, strict=True)
        ]
        keys = [sequence_key(ids) for ids in fitted]
        passes = plan_passes(
            dict(zip(keys, fitted, strict=True)), share_prefixes=self.backbone.share_prefixes
        )
        found: dict[bytes, np.ndarray] = {}
        for batch in plan_batches(passes, batch_tokens):
            answered = [key for item in batch for key in item.keys]
            found.update(zip(answered, self.backbone.vectors(batch), strict=True))
        return np.stack([found[key] for key in keys])


def load_encoder(config: BackboneConfig, device: str = "auto") -> Encoder:
    """Find the backbone's files and load its tokenizer.

    Raises ``ConfigError`` if the backbone cannot be found or does not fit the settings.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    from transformers import AutoTokenizer

    files = find_model(config)
    tokenizer = AutoTokenizer.from_pretrained(
        files.directory, local_files_only=True, trust_remote_code=False
    )
    return Encoder(config, files, Renderer(tokenizer, config), device)
