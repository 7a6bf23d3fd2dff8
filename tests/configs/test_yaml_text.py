"""A configuration file is data: tags are not obeyed, bombs are not unfolded, nothing is lost."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import pytest

from micro_rm.common.errors import ConfigError
from micro_rm.configs.command_line import parse
from micro_rm.configs.yaml_text import MAX_CHARACTERS, MAX_DEPTH, check_yaml
from micro_rm.pipeline import main

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join(['*' + last] * 9)}]\n"
    for last, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def refused(path: Path, text: str) -> str:
    path.write_text(text, "utf-8")
    with pytest.raises(ConfigError) as caught:
        parse(["run", "--config", str(path)])
    assert len(str(caught.value)) < 700
    return str(caught.value)


@pytest.mark.parametrize("tag", ["object/apply:os.system", "module:planted"])
def test_python_tags_are_refused_and_not_run(
    tag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proof = tmp_path / "proof"
    (tmp_path / "planted.py").write_text(f"open({str(proof)!r}, 'w')", "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    text = f"methods: !!python/{tag} ['touch {proof}']\n"
    assert "tag:yaml.org,2002:python/" in refused(tmp_path / "config.yaml", text)
    assert not proof.exists() and "planted" not in sys.modules


@pytest.mark.parametrize(
    "text",
    [
        "backbone: {}",
        "methods: [{}]",
        "train: {{optimizer: {}}}",
        "sweep: {{grid: {{train.num_heads: [{}]}}}}",
    ],
)
def test_no_class_of_the_file_s_choice_is_imported_or_made(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proof = tmp_path / "proof"
    code = f"import pathlib\npathlib.Path({str(proof)!r}).touch()\nclass C: pass\n"
    (tmp_path / "planted_class.py").write_text(code, "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "config.yaml"
    path.write_text(text.format("{class_path: planted_class.C, init_args: {}}"), "utf-8")
    with suppress(ConfigError):
        parse(["run", "--config", str(path)])
    assert not proof.exists() and "planted_class" not in sys.modules


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BOMB, "more than 100,000 values"),
        ("methods: " + "[" * 5000 + "]" * 5000, f"more than {MAX_DEPTH} lists"),
        ("train: {num_heads: 3}\ntrain: {epochs: 4}\n", "line 2: the key 'train' for the second"),
        ("train:\n  epochs: 3\n  epochs: 4\n", "line 3: the key 'epochs' for the second"),
        ("methods: &a [x, *a]\n", "something that it is part of"),
        ("# " + "x" * MAX_CHARACTERS, "is it another file?"),
        ("train: [[[", "parsing"),
        ("- a\n- b\n", "config"),
        ("methods: \0\n", "config"),
    ],
)
def test_what_is_no_configuration_is_refused(text: str, expected: str, tmp_path: Path) -> None:
    assert expected in refused(tmp_path / "config.yaml", text)


def test_a_file_given_for_one_section_is_read_as_strictly(tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text("epochs: 3\nepochs: 4\n", "utf-8")
    with pytest.raises(ConfigError, match="'epochs' for the second time"):
        parse(["run", f"--train={path}"])


def test_a_directory_and_a_binary_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe\x00\x80")
    for path in (tmp_path, tmp_path / "config.yaml", Path("/dev/zero")):
        assert main(["run", "--config", str(path)]) == 2


def test_an_argument_that_is_not_utf8_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--run.dir=\udcff"]) == 2
    assert "UTF-8" in capsys.readouterr().err


def test_plain_anchors_still_work() -> None:
    check_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: [*a, *a]\n---\nd: 1\n")
