"""Proof that a store's vectors are what the backbone gives: a sample embedded again, one by one.

For a backbone with a reward head of its own, vector times head must be the backbone's own reward.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification

from ..cache.pairs import NO_ROW, PairTable
from ..cache.reader import FeatureStore
from ..configs.schema import BackboneConfig, EmbedConfig
from .backbone import load_model
from .chat import Conversation
from .encoder import Encoder, load_encoder
from .model_files import score_head
from .sequences import conversation_of
from .sources.pair import Message, PreferencePair

# Relative L2 error that batching may cause; bfloat16 differs from itself by this much, and deep
# models by more: by what the probe at start-up saw of this one, in the few sequences that it has.
TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}
PROBE_FACTOR = 2.0
HEAD_TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}


@dataclass
class Recheck:
    """Sequences embedded again, their largest relative error, and the reward head's (if any)."""

    sequences: int = 0
    largest_error: float = 0.0
    head_error: float | None = None
    problems: list[str] = field(default_factory=list)


def recheck(
    store: FeatureStore, table: PairTable, *, size: int, seed: int, settings: EmbedConfig
) -> Recheck:
    """Embed ``size`` random sequences of a pair table alone and compare with the store.

    Raises ``ConfigError`` if the backbone is not at hand.
    """
    encoder = load_encoder(BackboneConfig(**table.settings["backbone"]), settings)
    result = Recheck()
    differences = store.manifest.identity.differences(encoder.identity)
    if differences:
        result.problems.append(f"the backbone at hand is another one: {'; '.join(differences)}")
        return result
    limit = max(TOLERANCE[encoder.config.dtype], PROBE_FACTOR * encoder.backbone.rounding)
    sample, vectors = [], []
    shortens = encoder.config.overlong == "truncate_prompt"
    for conversation, row in _sample(table, size, seed, equal_prompts=shortens):
        ids = encoder.renderer.fit(conversation, encoder.renderer.token_ids([conversation])[0])
        expected = encoder.backbone.alone(ids).astype(np.float64)
        found = store.vectors([row])[0].astype(np.float64)
        error = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
        if not error <= limit:
            result.problems.append(f"row {row}: relative error {error:.1e} when embedded again")
        result.largest_error = max(result.largest_error, error)
        sample.append(ids)
        vectors.append(found)
    result.sequences = len(sample)
    if sample and score_head(encoder.files.directory) is not None:
        result.head_error = _head_error(encoder, sample, np.array(vectors))
        if not result.head_error <= HEAD_TOLERANCE[encoder.config.dtype]:
            result.problems.append(
                f"vector times score head misses the backbone's own reward by a relative "
                f"{result.head_error:.1e}; its pooling, BOS or end token is not this store's"
            )
    return result


def _sample(
    table: PairTable, size: int, seed: int, *, equal_prompts: bool
) -> list[tuple[Conversation, int]]:
    places = [
        (key, int(place))
        for key, rows in sorted(table.rows.items())
        for place in np.flatnonzero(rows != NO_ROW)
    ]
    order = np.random.default_rng(seed).permutation(len(places))[:size]
    picked = []
    for key, place in (places[number] for number in order):
        view, role = key.split("/")
        pair = PreferencePair(
            prompt=tuple(Message(*turn) for turn in json.loads(table.text["prompt"][place])),
            chosen=table.text["chosen"][place],
            rejected=table.text["rejected"][place],
            split=table.text["split"][place],
            source=table.name,
            context=table.text["context"][place] or None,
        )
        conversation = conversation_of(
            pair, view, role, table.settings["form"], equal_prompts=equal_prompts
        )
        picked.append((conversation, int(table.rows[key][place])))
    return picked


@torch.inference_mode()
def _head_error(encoder: Encoder, sample: list[np.ndarray], vectors: np.ndarray) -> float:
    """Largest gap between vector times head and the backbone's reward, relative to their scale."""
    model = load_model(
        AutoModelForSequenceClassification, encoder.files.directory, encoder.backbone.dtype
    )
    model.to(encoder.backbone.device)
    model.config.pad_token_id = None  # one unpadded row: a last token equal to pad is no padding
    ours = vectors @ model.score.weight.double().cpu().numpy().T
    own = []
    for ids in sample:
        inputs = torch.from_numpy(ids[None].astype(np.int64)).to(encoder.backbone.device)
        own.append(model(input_ids=inputs).logits[0].double().cpu().numpy())
    return float(np.abs(ours - own).max() / max(np.abs(own).max(), 1e-12))
