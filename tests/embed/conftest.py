"""Tiny random backbones with tokenizers, and preference files, made once per session."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from micro_rm.configs.schema import BackboneConfig, Config, DataConfig, EmbedConfig, StoreConfig
from micro_rm.embed.backbone import TorchBackbone
from micro_rm.embed.encoder import Encoder, load_encoder
from micro_rm.embed.plan import Plan
from micro_rm.embed.planner import make_plan
from micro_rm.embed.sources import open_pairs
from micro_rm.embed.sources.pair import Message, PreferencePair
from micro_rm.embed.stage import JobResult, run_job
from micro_rm.tests.embed.shard_runs import SMALL
from micro_rm.tests.embed.tiny_models import _make_model, _make_tokenizer, decoder
from micro_rm.tests.embed.token_sequences import relative_error

SMALL_BINS = EmbedConfig(device="cpu", bin_tokens=256, shard_tokens=1000)

torch.set_num_threads(1)
transformers_logging.disable_progress_bar()


@pytest.fixture(scope="session", name="decoder")
def _decoder() -> Callable[..., Any]:
    """``decoder(family, **settings)``: a fresh small random model, such as Llama or GPTNeoX."""
    return decoder


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    """``make_tokenizer(family, template=None)``: a fresh tokenizer, its template by name."""
    return _make_tokenizer


@pytest.fixture(scope="session")
def save_backbone() -> Callable[..., Path]:
    """``save_backbone(directory, family, template=None, labels=0)``: weights and tokenizer."""

    def save(directory: Path, family: str, template: str | None = None, labels: int = 0) -> Path:
        tokenizer = _make_tokenizer(family, template)
        tokenizer.save_pretrained(directory)
        _make_model(family, len(tokenizer), labels=labels).save_pretrained(directory)
        return directory

    return save


@pytest.fixture(scope="session")
def backbone_path(
    tmp_path_factory: pytest.TempPathFactory, save_backbone: Callable[..., Path]
) -> Callable[[str], Path]:
    """Directory of a tiny backbone: llama, qwen2, gpt2, bert, or llama-reward with a head."""
    made: dict[str, Path] = {}

    def path(name: str) -> Path:
        if name not in made:
            family, _, reward = name.partition("-")
            directory = tmp_path_factory.mktemp(name)
            made[name] = save_backbone(directory, family, labels=1 if reward else 0)
        return made[name]

    return path


@pytest.fixture(scope="session")
def settings(backbone_path: Callable[[str], Path]) -> Callable[..., BackboneConfig]:
    """``settings(model, **changes)``: float32 settings of a tiny backbone or a directory."""

    def make(model: str | Path, **changes: Any) -> BackboneConfig:
        directory = model if isinstance(model, Path) else backbone_path(model)
        defaults = BackboneConfig(name=str(directory), dtype="float32", max_length=256)
        return replace(defaults, **changes)

    return make


@pytest.fixture(scope="session")
def backbone(
    backbone_path: Callable[[str], Path], settings: Callable[..., BackboneConfig]
) -> Callable[..., TorchBackbone]:
    """``backbone(name, side="right", share=None, **settings)``: a model, loaded once.

    By default prefixes are shared on the right side; rows are padded on the left without sharing.
    """
    loaded: dict[str, TorchBackbone] = {}

    def load(
        name: str, side: str = "right", share: bool | None = None, **changes: Any
    ) -> TorchBackbone:
        share = side == "right" if share is None else share
        key = repr((name, side, share, sorted(changes.items())))
        if key not in loaded:
            loaded[key] = TorchBackbone(
                backbone_path(name),
                settings(name, **changes),
                device="cpu",
                padding_side=side,
                share=share,
            )
        return loaded[key]

    return load


@pytest.fixture(scope="session")
def encoder(settings: Callable[..., BackboneConfig]) -> Callable[..., Encoder]:
    """``encoder(name, embed=None, **settings)``: a tiny backbone with tokenizer, loaded once."""
    loaded: dict[str, Encoder] = {}

    def load(name: str | Path, embed: EmbedConfig | None = None, **changes: Any) -> Encoder:
        key = repr((name, embed, sorted(changes.items())))
        if key not in loaded:
            loaded[key] = load_encoder(settings(name, **changes), embed or SMALL_BINS)
        return loaded[key]

    return load


@pytest.fixture(scope="session", name="relative_error")
def _relative_error() -> Callable[[np.ndarray, np.ndarray], float]:
    return relative_error


@pytest.fixture(scope="session")
def make_pair() -> Callable[..., PreferencePair]:
    """``make_pair(prompt, chosen, rejected, **fields)``: a training pair of one user turn."""

    def make(
        prompt: str | tuple[Message, ...] = "How far is the moon?",
        chosen: str = "384,400 km.",
        rejected: str = "Very far.",
        **fields: Any,
    ) -> PreferencePair:
        turns = (Message("user", prompt),) if isinstance(prompt, str) else prompt
        return PreferencePair(
            turns, chosen, rejected, **({"split": "train", "source": "test"} | fields)
        )

    return make


@pytest.fixture(scope="session")
def write_rows() -> Callable[..., str]:
    """Write rows as .jsonl, .jsonl.gz or .parquet; a string row is a raw line. Returns the path."""

    def write(path: Path, rows: Sequence[dict[str, Any] | str]) -> str:
        if path.suffix == ".parquet":
            import pyarrow
            from pyarrow import parquet

            parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
            return str(path)
        text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
        data = text.encode()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
        return str(path)

    return write


@pytest.fixture(scope="session")
def preference_rows() -> Callable[[int], list[dict[str, Any]]]:
    """``preference_rows(n)``: n explicit rows, a quarter of them test, in two attributes."""

    def make(number: int) -> list[dict[str, Any]]:
        return [
            {
                "prompt": f"Question {index // 2}: how far is the moon?",
                "chosen": f"About {index} km." + " It is far." * (index % 5),
                "rejected": f"Ask the sun, number {index}.",
                "attribute": ("brief", "long")[index % 2],
                "context": ("be brief", "use many words")[index % 2],
                "split": "test" if index % 8 < 2 else "train",
            }
            for index in range(number)
        ]

    return make


@pytest.fixture
def file(
    tmp_path: Path,
    write_rows: Callable[..., str],
    preference_rows: Callable[[int], list[dict[str, Any]]],
) -> str:
    """Sixteen pairs and a row that is refused."""
    return write_rows(tmp_path / "rows.jsonl", [*preference_rows(16), {"prompt": "bad"}])


@pytest.fixture(scope="session")
def configure(settings: Callable[..., BackboneConfig]) -> Callable[..., Config]:
    """``configure(model, file, store, embed=None, data=None, **backbone)``: small bins and shards.

    The data set is called ``rows``.
    """

    def make(
        model: str | Path,
        file: str,
        store: Path,
        *,
        embed: EmbedConfig | None = None,
        data: DataConfig | None = None,
        **changes: Any,
    ) -> Config:
        return Config(
            data=data or DataConfig(name="rows", train=file),
            backbone=settings(model, **changes),
            store=StoreConfig(dir=str(store)),
            embed=embed or SMALL_BINS,
        )

    return make


@pytest.fixture(scope="session")
def plan(
    configure: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[Config, Plan]]:
    """The same arguments as ``configure``; configuration and plan, made outside of the store."""

    def make(*arguments: Any, **options: Any) -> tuple[Config, Plan]:
        config = configure(*arguments, **options)
        encoder = load_encoder(config.backbone, config.embed)
        directory = tmp_path_factory.mktemp("plan")
        return config, make_plan(encoder, open_pairs(config.data), config, "job", directory)

    return make


@pytest.fixture(scope="session")
def embed(configure: Callable[..., Config]) -> Callable[..., JobResult]:
    """The same arguments as ``configure``; runs the job as the pipeline does."""

    def make(*arguments: Any, **options: Any) -> JobResult:
        config = configure(*arguments, **options)
        return run_job(
            config,
            open_pairs(config.data),
            "request",
            on_plan=lambda *_: None,
            progress=lambda *_: None,
            notify=lambda _: None,
        )

    return make


@pytest.fixture(scope="session")
def prepare(
    encoder: Callable[..., Encoder],
    configure: Callable[..., Config],
    write_rows: Callable[..., str],
    preference_rows: Callable[[int], list[dict[str, Any]]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., tuple[Encoder, Plan]]:
    """``prepare(family, store, rows=24, embed=SMALL)``: an encoder, and a plan for a new store."""

    def make(
        family: str,
        store: Path,
        rows: int = 24,
        embed: EmbedConfig = SMALL,
        made: Encoder | None = None,
    ) -> tuple[Encoder, Plan]:
        base = tmp_path_factory.mktemp("prepared")
        file = write_rows(base / "rows.jsonl", preference_rows(rows))
        config = configure(family, file, store, embed=embed)
        made = made or encoder(family, embed)
        (base / "plan").mkdir()
        return made, make_plan(made, open_pairs(config.data), config, "job", base / "plan")

    return make
