"""Flags, YAML and their mistakes."""

from __future__ import annotations

from dataclasses import asdict, fields, is_dataclass
from pathlib import Path

import docstring_parser
import pytest

from micro_rm.common.errors import ConfigError
from micro_rm.configs.baselines import BaselinesConfig, PalConfig
from micro_rm.configs.command_line import parse
from micro_rm.configs.renamed import current_keys
from micro_rm.configs.schema import Config
from micro_rm.configs.train import TrainConfig


def test_defaults_are_the_dataclass_defaults() -> None:
    options, config = parse(["run"])
    assert options.command == "run" and options.path is None
    assert config == Config()


@pytest.mark.long
@pytest.mark.parametrize("command", ["check", "embed", "export", "sweep"])
def test_every_command_takes_every_key(command: str) -> None:
    _, config = parse([command, "--train.num_heads=3", "--store.dir=here"])
    assert config.train.num_heads == 3 and config.store.dir == "here"


def test_demo_starts_from_its_preset_and_keys_go_two_levels_deep() -> None:
    _, config = parse(["demo", "--baselines.hyre.rows=null", "--baselines.pal.variant=B"])
    assert config.data.source == "synthetic"
    assert (config.baselines.hyre.rows, config.baselines.pal.variant) == (None, "B")


def test_a_flag_wins_before_and_behind_the_config_file(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("train:\n  num_heads: 7\n  epochs: 2\nadapt:\n  tau: 1e-4\n", "utf-8")
    for argv in (
        ["run", "--config", str(path), "--train.num_heads=5"],
        ["run", "--train.num_heads=5", "--config", str(path)],
        ["run", "--train.num_heads=5", f"--config={path}"],
    ):
        _, config = parse(argv)
        assert (config.train.num_heads, config.train.epochs) == (5, 2)
        assert config.adapt.tau == 1e-4  # PyYAML alone reads it as text


def test_methods_as_list_or_text() -> None:
    assert parse(["run", "--methods=all"])[1].methods == "all"
    assert parse(["run", "--methods=[micro,single_bt]"])[1].methods == ["micro", "single_bt"]
    assert parse(["run", "--methods=micro,single_bt"])[1].methods == "micro,single_bt"


@pytest.mark.parametrize(
    "argv",
    [
        ["sweep", "--train.memory_gb=3", "--sweep.memory_gb", "0.5"],
        ["sweep", "--config", "DIR/old.yaml"],
        ["sweep", "--train=DIR/train.yaml", "--sweep={memory_gb: 0.5}"],
    ],
)
def test_the_old_name_of_a_key_works_with_a_warning(
    argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = "train:\n  memory_gb: 3\nsweep:\n  memory_gb: 0.5\n"
    (tmp_path / "old.yaml").write_text(both, "utf-8")
    (tmp_path / "train.yaml").write_text("memory_gb: 3\n", "utf-8")
    _, config = parse([word.replace("DIR", str(tmp_path)) for word in argv])
    assert (config.train.memory_gib, config.sweep.memory_gib) == (3.0, 0.5)
    printed = capsys.readouterr()
    assert printed.out == ""
    for line in printed.err.splitlines():
        assert "memory_gb is called" in line and "memory_gib now" in line
    assert 1 <= len(printed.err.splitlines()) <= 2


def test_the_old_name_of_a_key_may_be_swept(capsys: pytest.CaptureFixture[str]) -> None:
    _, config = parse(["sweep", "--sweep.grid={train.memory_gb: [1, 2]}"])
    assert config.sweep.grid == {"train.memory_gib": [1, 2]}
    assert "train.memory_gb is called train.memory_gib now" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        ["run", "--baselines.pal.adapt_epochs=30", "--baselines.pal.epochs=7"],
        ["run", "--baselines.pal.adapt_epochs", "30", "--baselines.pal.epochs", "7"],
        ["run", "--config", "DIR/old.yaml"],
    ],
)
def test_a_removed_key_is_ignored_with_a_warning(
    argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "baselines: {pal: {adapt_epochs: 30, epochs: 7}}\n"
    (tmp_path / "old.yaml").write_text(text, "utf-8")
    _, config = parse([word.replace("DIR", str(tmp_path)) for word in argv])
    assert config == Config(baselines=BaselinesConfig(pal=PalConfig(epochs=7)))
    (line,) = capsys.readouterr().err.splitlines()
    assert "adapt_epochs is ignored (pal fits the weights of every group to convergence)" in line
    assert current_keys({"pal": {"adapt_epochs": 30}}) == {"pal": {}}


def test_compare_takes_any_number_of_runs() -> None:
    options, config = parse(["compare", "runs/a", "runs/b", "--compare.methods=[micro]"])
    assert options.runs == ("runs/a", "runs/b") and options.path is None
    assert config.compare.methods == ["micro"]
    assert parse(["report"])[0].runs == ()


def test_both_names_of_a_key_in_one_section_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("train: {memory_gb: 1, memory_gib: 2}\n", "utf-8")
    with pytest.raises(ConfigError, match="memory_gb and memory_gib are one setting"):
        parse(["run", "--config", str(path)])


def test_the_configuration_of_an_old_record_can_be_read_back() -> None:
    recorded = asdict(Config(train=TrainConfig(memory_gib=3.0)))
    recorded["train"]["memory_gb"] = recorded["train"].pop("memory_gib")
    assert TrainConfig(**current_keys(recorded)["train"]) == TrainConfig(memory_gib=3.0)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["run", "--train.num_head=3"], "did you mean train.num_heads?"),
        (["run", "--nonsense=3"], "--help"),
        (["run", "--train.num_heads=many"], "train.num_heads"),
        (["run", "--adapt.tau=0"], "adapt.tau: expected above 0, found 0"),
        (["run", "--adapt.pool=10"], "at least adapt.budget (50) rows, found 10"),
        (["run", "--adapt.group=team"], "adapt.group"),
        (["run", "--baselines.drm.atoms=3"], "did you mean baselines.dpl.atoms?"),
        (["run", "--data.name=a/b"], "data.name"),
        (["run", "--backbone.pooling=last", "--backbone.overlong=truncate_end"], "mean or cls"),
        (["walk"], "walk"),
        ([], "command"),
    ],
)
def test_mistakes_name_the_key(argv: list[str], expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(argv)
    assert expected in str(error.value)


def sections(config: type = Config) -> list[type]:
    """Every dataclass of the configuration."""
    inner = [item.default_factory for item in fields(config)]
    kinds = [kind for kind in inner if isinstance(kind, type) and is_dataclass(kind)]
    return [config, *(part for kind in kinds for part in sections(kind))]


def test_every_key_has_a_line_of_help() -> None:
    """The help of a flag is the field's line in the docstring of its dataclass."""
    for section in sections():
        described = {
            item.arg_name: item.description
            for item in docstring_parser.parse_from_object(section).params
        }
        assert list(described) == [item.name for item in fields(section)], section
        assert all(text and len(text.split()) >= 2 for text in described.values()), section


def test_help_shows_those_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["run", "--help"])
    assert "reward heads of every mixture" in " ".join(capsys.readouterr().out.split())


def test_shards_and_engine_have_short_flags_for_job_scripts() -> None:
    for flag in (["--shards", "2/3"], ["--shards=2/3"], ["--embed.shards", "2/3"]):
        assert parse(["embed", *flag])[1].embed.part == (2, 3)
    assert parse(["embed", "--engine", "ray"])[1].embed.engine == "ray"


def test_labelled_rows_of_the_test_split_need_no_pool() -> None:
    _, config = parse(["run", "--adapt.pool=10", "--adapt.source=test"])
    assert (config.adapt.budget, config.adapt.pool) == (50, 10)
