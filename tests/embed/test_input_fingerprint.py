"""The fingerprint of an embedding run's inputs: contents count, places do not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from micro_rm.configs.adapt import AdaptConfig
from micro_rm.configs.schema import (
    BackboneConfig,
    Config,
    DataConfig,
    EmbedConfig,
    RunConfig,
    StoreConfig,
)
from micro_rm.configs.train import TrainConfig
from micro_rm.embed.input_fingerprint import input_fingerprint
from micro_rm.embed.sources.pair import DataError


@pytest.fixture
def config(
    tmp_path: Path, write_rows: Callable[..., str], settings: Callable[..., BackboneConfig]
) -> Config:
    contexts = tmp_path / "contexts.json"
    contexts.write_text(json.dumps({"brief": "be brief"}))
    row = {"prompt": "a", "chosen": "x", "rejected": "y"}
    data = DataConfig(
        train=write_rows(tmp_path / "train.jsonl", [row]),
        test=write_rows(tmp_path / "test.jsonl", [row]),
        contexts=str(contexts),
    )
    return Config(data=data, backbone=settings("llama"))


def test_the_content_of_every_file_counts(config: Config) -> None:
    fingerprints = [input_fingerprint(config)]
    for name in ("train", "test", "contexts"):
        path = Path(getattr(config.data, name))
        path.write_text(path.read_text() + "\n")
        fingerprints.append(input_fingerprint(config))
    assert len(set(fingerprints)) == 4


def test_settings_that_change_the_table_count(config: Config) -> None:
    changes: list[tuple[str, dict[str, Any]]] = [
        ("backbone", {"max_length": 100}),
        ("backbone", {"prompt_readout": "generation_prompt"}),
        ("backbone", {"date": "01 Jan 2020"}),
        ("backbone", {"name": "org/model", "revision": "a"}),  # no network is needed
        ("backbone", {"name": "org/model", "revision": "b"}),
        ("data", {"test_fraction": 0.3}),
        ("data", {"pairing": "all"}),
        ("data", {"attributes": ["brief"]}),
        ("views", {"form": "bare"}),
        ("views", {"adapt_router": "plain"}),
        ("adapt", {"pool": 100}),
        ("adapt", {"group": "user"}),
    ]
    others = [
        replace(config, **{section: replace(getattr(config, section), **values)})
        for section, values in changes
    ]
    assert len({input_fingerprint(one) for one in (config, *others)}) == len(changes) + 1


def test_places_and_later_stages_do_not_count(config: Config, tmp_path: Path) -> None:
    assert config.data.train is not None
    moved = tmp_path / "moved.jsonl"
    Path(config.data.train).rename(moved)
    other = replace(
        config,
        data=replace(config.data, name="another-name", train=str(moved)),
        store=StoreConfig(dir="elsewhere"),
        embed=EmbedConfig(bin_tokens=1, shards="1/2", shard_tokens=5, share_prefixes=False),
        train=TrainConfig(epochs=9),
        adapt=AdaptConfig(epochs=9, budget=9, source="test"),
        run=RunConfig(seed=9),
    )
    moved_back = input_fingerprint(other)
    moved.rename(config.data.train)
    assert input_fingerprint(config) == moved_back


def test_the_bytes_of_a_local_backbone_count(
    config: Config, tmp_path: Path, save_backbone: Callable[..., Path]
) -> None:
    directory = save_backbone(tmp_path / "model", "llama")
    config = replace(config, backbone=replace(config.backbone, name=str(directory)))
    before = input_fingerprint(config)
    with (directory / "model.safetensors").open("ab") as stream:
        stream.write(b"x")
    assert input_fingerprint(config) != before


def test_a_missing_file_is_named(config: Config) -> None:
    other = replace(config, data=replace(config.data, test="nowhere.jsonl"))
    with pytest.raises(DataError, match=r"nowhere\.jsonl: no such file; .*--data\.test"):
        input_fingerprint(other)
