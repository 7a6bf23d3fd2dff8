"""A configuration survives JSON, and records of other versions are read."""

from __future__ import annotations

import json
from dataclasses import asdict

from micro_rm.configs.data import PartConfig
from micro_rm.configs.saved import read_config
from micro_rm.configs.schema import Config, DataConfig


def test_a_recorded_configuration_is_read_back_without_keys_of_other_versions() -> None:
    parts = [PartConfig("jsonl", train="a.jsonl"), PartConfig("jsonl", test="b.jsonl")]
    config = Config(data=DataConfig(source="union", parts=parts), methods=["micro", "single_bt"])
    content = json.loads(json.dumps(asdict(config)))
    assert read_config(content) == config
    del content["train"]["num_heads"]
    content["train"]["gone"] = content["gone"] = 3
    assert read_config(content) == config
