"""A file, or a file and a backbone, is all that a command needs; the rest follows and is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from micro_rm.cache.manifest import read_manifest
from micro_rm.cache.pairs import read_pairs
from micro_rm.embed import dtype
from micro_rm.embed.dtype import MatmulRates
from micro_rm.pipeline import main

STORE = Path("cache/store/default")


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a file of pairs, two of them longer than any tiny model reads."""
    monkeypatch.chdir(tmp_path)
    made = [
        {
            "prompt": f"question {number // 2} about the {('garden', 'moon')[number % 3 == 0]}",
            "chosen": ("yes", "it is a long story")[number % 2] + " so" * (number // 96 * 400),
            "rejected": ("it is a long story", "yes")[number % 2],
            "attribute": ("short", "long")[number % 2],
            "context": ("be brief", "tell me everything")[number % 2],
        }
        for number in range(98)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made), "utf-8")
    return tmp_path


@pytest.fixture
def prefers(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """``prefers(type)``: a machine whose products are faster in that type."""

    def make(name: str) -> None:
        rates = MatmulRates(1e9, 9e9) if name == "bfloat16" else MatmulRates(9e9, 1e9)
        monkeypatch.setattr(dtype, "measure_matmul_rates", lambda *_: rates)

    return make


@pytest.mark.parametrize(
    ("family", "reads", "policy", "views", "pairs"),
    [
        ("llama", "last token", "drop", {"ctx", "plain"}, 96),  # has a chat template
        ("gpt2", "last token", "drop", {"ctx", "plain"}, 96),  # has none
        ("bert", "mean over tokens", "truncate_end", {"context", "plain"}, 98),
    ],
)
@pytest.mark.usefixtures("rows")
def test_what_is_left_open_follows_from_the_model_and_is_said(
    family: str,
    reads: str,
    policy: str,
    views: set[str],
    pairs: int,
    backbone_path: Callable[[str], Path],
    prefers: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    prefers("float32")
    name = str(backbone_path(family))
    assert main(["embed", "--data.train=rows.jsonl", f"--backbone.name={name}"]) == 0
    printed = capsys.readouterr().out
    assert f"{name} in float32 on cpu: a bfloat16 product runs at 1 GFLOP/s here" in printed
    assert f"embed    {reads}, sequences of up to 256 tokens" in printed
    identity = read_manifest(STORE).identity
    assert (identity.dtype, identity.max_length) == ("float32", 256)
    table = read_pairs(STORE, "preferences")
    settings = table.settings["backbone"]
    assert "auto" not in (settings["dtype"], settings["pooling"], settings["max_length"])
    assert settings["overlong"] == policy and len(table.text["prompt"]) == pairs
    assert {key.split("/")[0] for key in table.rows} == views


@pytest.mark.parametrize("first", ["float32", pytest.param("bfloat16", marks=pytest.mark.long)])
@pytest.mark.usefixtures("rows")
def test_a_store_keeps_its_type_on_a_machine_that_would_choose_the_other(
    first: str,
    backbone_path: Callable[[str], Path],
    prefers: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["--data.train=rows.jsonl", f"--backbone.name={backbone_path('bert')}"]
    prefers(first)
    main(["embed", *arguments])
    before = read_manifest(STORE)
    capsys.readouterr()
    prefers({"float32": "bfloat16", "bfloat16": "float32"}[first])
    short = ["--methods=single_bt", "--train.epochs=1", "--train.seeds=1"]
    assert main(["run", *arguments, *short]) == 0
    kept = f"backbone.dtype auto keeps the store's {first}"
    assert f"done before for the same inputs (cache/store/default; {kept})" in (
        capsys.readouterr().out
    )
    more = Path("rows.jsonl").read_text("utf-8").replace("question", "another question")
    Path("more.jsonl").write_text(more, "utf-8")
    again = ["--data.train=more.jsonl", "--data.name=more", arguments[1]]
    assert main(["embed", *again]) == 0
    assert f"in {first} on cpu: {kept}" in capsys.readouterr().out
    after = read_manifest(STORE)
    assert asdict(after.identity) == asdict(before.identity) and after.rows > before.rows
    record = json.loads(Path("runs/default/record.json").read_text("utf-8"))
    assert record["config"]["backbone"]["dtype"] == record["store"]["dtype"] == first


@pytest.mark.usefixtures("rows")
def test_another_model_is_named_before_its_settings_are(
    backbone_path: Callable[[str], Path],
    save_backbone: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["embed", "--data.train=rows.jsonl", f"--backbone.name={backbone_path('llama')}"])
    assert main(["embed", "--data.train=rows.jsonl", f"--backbone.name={backbone_path('bert')}"])
    message = capsys.readouterr().err
    assert "written under another identity (weights: the store has" in message
    assert "max_length" not in message


@pytest.mark.long
@pytest.mark.parametrize("family", ["llama", "bert"])
@pytest.mark.usefixtures("rows")
def test_a_whole_run_needs_a_file_and_a_backbone(
    family: str, backbone_path: Callable[[str], Path]
) -> None:
    rows = Path("rows.jsonl").read_text("utf-8")
    several = [rows.replace("question", f"question {number} of") for number in range(4)]
    Path("rows.jsonl").write_text("".join(several), "utf-8")  # 50 labelled rows per attribute
    assert main(["run", "--data.train=rows.jsonl", f"--backbone.name={backbone_path(family)}"]) == 0
    report = json.loads(Path("runs/default/report.json").read_text("utf-8"))
    assert "micro" in report["methods"]
