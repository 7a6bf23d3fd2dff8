"""Check a store's vectors against its backbone, by embedding a random sample again.

For a backbone with its own reward head, the dot product of vector and head must also equal the
backbone's reward.
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

# Relative L2 error that batching alone may cause. Deep models exceed it in bfloat16; their limit is
# a multiple of the error in the probe, which sees few sequences.
TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}
PROBE_FACTOR = 2.0
HEAD_TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}


@dataclass
class Recheck:
    """Result of a check.

    Attributes:
        sequences: Sequences that were embedded again.
        largest_error: Their largest relative L2 error.
        head_error: Relative error of the reward; None if the backbone has no reward head.
        problems: What is wrong, in words; empty if nothing is.
    """

    sequences: int = 0
    largest_error: float = 0.0
    head_error: float | None = None
    problems: list[str] = field(default_factory=list)


def recheck(
    store: FeatureStore, table: PairTable, *, size: int, seed: int, settings: EmbedConfig
) -> Recheck:
    """Embed random sequences of a pair table again, separately, and compare with the store.

    Args:
        store: The store.
        table: One of its pair tables.
        size: Number of sequences.
        seed: Seed of the sample.
        settings: Settings of the embedding stage.

    Raises:
        ConfigError: The backbone is not available.
    """
    encoder = load_encoder(BackboneConfig(**table.settings["backbone"]), settings)
    result = Recheck()
    differences = store.manifest.identity.differences(encoder.identity)
    if differences:
        result.problems.append(f"the backbone at hand is another one: {'; '.join(differences)}")
        return result
    limit = max(TOLERANCE[encoder.config.dtype], PROBE_FACTOR * encoder.backbone.probe_error)
    sample, vectors = [], []
    equal_prompts = encoder.config.overlong == "truncate_prompt"
    for conversation, row in _sample(table, size, seed, equal_prompts=equal_prompts):
        ids = encoder.renderer.fit(conversation, encoder.renderer.token_ids([conversation])[0])
        expected = encoder.backbone.reference_vector(ids).astype(np.float64)
        stored = store.vectors([row])[0].astype(np.float64)
        error = float(np.linalg.norm(stored - expected) / np.linalg.norm(expected))
        if not error <= limit:  # so written that NaN is a problem too
            result.problems.append(f"row {row}: relative error {error:.1e} when embedded again")
        result.largest_error = max(result.largest_error, error)
        sample.append(ids)
        vectors.append(stored)
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
    """Random conversations of a pair table, each with the row of its vector in the store."""
    entries = [
        (key, int(pair_index))
        for key, rows in sorted(table.rows.items())
        for pair_index in np.flatnonzero(rows != NO_ROW)
    ]
    order = np.random.default_rng(seed).permutation(len(entries))[:size]
    sample = []
    for key, index in (entries[number] for number in order):
        view, role = key.split("/")
        pair = PreferencePair(
            prompt=tuple(Message(*turn) for turn in json.loads(table.text["prompt"][index])),
            chosen=table.text["chosen"][index],
            rejected=table.text["rejected"][index],
            split=table.text["split"][index],
            source=table.name,
            context=table.text["context"][index] or None,
        )
        conversation = conversation_of(
            pair, view, role, table.settings["form"], equal_prompts=equal_prompts
        )
        sample.append((conversation, int(table.rows[key][index])))
    return sample


@torch.inference_mode()
def _head_error(encoder: Encoder, sample: list[np.ndarray], vectors: np.ndarray) -> float:
    """Largest error of vector times head, relative to the backbone's largest reward."""
    model = load_model(
        AutoModelForSequenceClassification, encoder.files.directory, encoder.backbone.dtype
    )
    model.to(encoder.backbone.device)
    model.config.pad_token_id = None  # rows are unpadded: a last token equal to pad is real
    computed = vectors @ model.score.weight.double().cpu().numpy().T
    rewards = []
    for ids in sample:
        inputs = torch.from_numpy(ids[None].astype(np.int64)).to(encoder.backbone.device)
        rewards.append(model(input_ids=inputs).logits[0].double().cpu().numpy())
    return float(np.abs(computed - rewards).max() / max(np.abs(rewards).max(), 1e-12))
