"""A terminal gets plain text: no control code, no markup, no secret."""

from __future__ import annotations

import io
import sys

import pytest
from rich.table import Table
from rich.text import Text

from micro_rm.common.console import make_printer, printable, spinner
from micro_rm.common.redact import MARK, escape_controls

ATTACKS = {
    "title": "\x1b]0;owned\x07",
    "clear": "\x9b2J\x1b[H",
    "order": "\u202egnp.exe",
    "return": "all well\rerror",
    "surrogate": "\udcff",
}


@pytest.mark.parametrize("text", ATTACKS.values(), ids=list(ATTACKS))
def test_control_characters_are_shown(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    say = make_printer(quiet=False)
    table = Table("a " + text)
    table.add_row(text)
    table.add_row(Text(text))
    for shown in (text, table):
        say(shown)
    printed = capsys.readouterr().out
    assert not set(printed) & set("\x1b\x07\x9b\r\u202e\udcff")
    assert printed.startswith(escape_controls(text))
    assert not set(printable(ValueError(text))) & set("\x1b\x07\x9b\r\u202e\udcff")


def test_markup_and_emoji_codes_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    say = make_printer(quiet=False)
    table = Table("[red]head[/red]", "[link=https://evil.example]x[/link]")
    table.add_row("[bold]cell[/bold]", ":warning:")
    for shown in ("[red]line[/red] :warning: [/nothing]", table):
        say(shown)
    printed = capsys.readouterr().out
    for text in ("[red]line[/red] :warning: [/nothing]", "[red]head[/red]", "[bold]cell[/bold]"):
        assert text in printed
    assert printed.count(":warning:") == 2


def test_lines_stay_whole_and_empty_ones_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    say = make_printer(quiet=False)
    for line in ("x" * 500, "", "a\nb"):
        say(line)
    assert capsys.readouterr().out == "x" * 500 + "\n\na\nb\n"


def test_a_token_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    token = "hf_" + "Ab1" * 9
    make_printer(quiet=False)(f"upstream {token}")
    assert token not in capsys.readouterr().out
    assert printable(ValueError(token)) == MARK


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_spinner_is_shown_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with spinner("train"):
        pass
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", Terminal())
    with spinner("train"):  # standard output is a file, whose lines it would break up
        pass
    assert sys.stderr.getvalue() == ""
    monkeypatch.setattr("sys.stdout", Terminal())
    with spinner("train"):
        pass
    assert "train" in sys.stderr.getvalue() and sys.stdout.getvalue() == ""


@pytest.mark.parametrize(
    ("terminal", "no_colour", "coloured"),
    [(True, False, True), (True, True, False), (False, False, False)],
)
def test_colour_is_on_a_terminal_only_and_can_be_refused(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, no_colour: bool, coloured: bool
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_colour:
        monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("sys.stdout", Terminal() if terminal else io.StringIO())
    make_printer(quiet=False)(Text("best", style="red"))
    assert ("\x1b[31m" in sys.stdout.getvalue()) == coloured
