"""The command of a report makes the same configuration again."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from micro_rm.configs.command_line import parse
from micro_rm.configs.schema import Config
from micro_rm.display.reproduce import command


@pytest.mark.long
@pytest.mark.parametrize("preset", ["alpaca_styles", "simulator"])
def test_the_command_gives_the_configuration_back(preset: str, tmp_path: Path) -> None:
    data = tmp_path / "my data's.jsonl"
    data.write_text("{}")
    configs = Path(__file__).parents[2] / "configs"
    words = ["run", "--config", str(configs / f"{preset}.yaml"), "--train.num_heads", "3"]
    words += ["--data.train", str(data), "--data.test", str(data), "--data.contexts", str(data)]
    words += ["--report.tables", "[table1]"]
    _, config = parse(words if preset != "simulator" else words[:5])
    again = command(json.loads(json.dumps(asdict(config))))
    _, result = parse(shlex.split(again.replace("\\\n", " "))[1:])
    assert result == config


def test_defaults_are_not_repeated_and_other_commands_settings_are_not_named() -> None:
    config = Config()
    assert command(asdict(config)) == "micro-rm run"
    changed = replace(config, run=replace(config.run, seed=7), sweep=replace(config.sweep, grid={}))
    assert command(asdict(changed)) == "micro-rm run \\\n  --run.seed 7"
    assert command({}) == ""
