"""What we depend on: licences are listed and allowed, and the audit says what it could not ask."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from micro_rm.tools import audit, licences

ROOT = Path(__file__).resolve().parent.parent


PINS = audit.read_pins(audit.PINS.read_text("utf-8"))


def rows() -> dict[str, list[str]]:
    found = {}
    for line in licences.PAGE.read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == 4 and cells[0] not in ("package", "---"):
            found[cells[0]] = cells[1:]
    return found


def test_every_direct_dependency_is_pinned_and_its_licence_listed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [
        *project["dependencies"],
        *(x for key in extras if key != "cuda" for x in extras[key]),
    ]
    names = {licences.normal(re.split(r"[\[<>=]", line)[0]) for line in wanted} - {"micro-rm"}
    assert names - set(rows()) == set() and names - set(PINS) == set()


def test_listed_versions_are_the_pinned_ones() -> None:
    listed = {name: cells[0] for name, cells in rows().items() if name in PINS}
    assert listed == {name: PINS[name] for name in listed}
    assert set(PINS) - set(listed) == set(), "pinned, and not in docs/licences.md"


def test_every_licence_is_permissive_or_explained() -> None:
    explained = set(licences.EXPLAINED)
    assert {name for name, cells in rows().items() if licences.needs_a_word(cells[1])} == explained
    page = licences.PAGE.read_text("utf-8")
    assert all(f"**{name}**" in page for name in explained)


@pytest.mark.parametrize(
    ("info", "classifiers", "expected", "word"),
    [
        ({"License-Expression": "MIT AND GPL-3.0-only"}, [], "MIT AND GPL-3.0-only", True),
        ({"License": "LGPL-3.0"}, [], "LGPL-3.0", True),
        ({}, [], "unknown", True),
        ({}, ["License :: OSI Approved :: MIT License"], "MIT", False),
        ({"License": "long\ntext"}, ["License :: OSI Approved :: BSD License"], "BSD", False),
        ({"License": "Apache 2.0"}, [], "Apache-2.0", False),
    ],
)
def test_a_licence_is_read_and_judged(
    info: dict[str, str], classifiers: list[str], expected: str, word: bool
) -> None:
    assert licences.licence_of(info, classifiers) == expected
    assert licences.needs_a_word(expected) == word


FLAW = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fixed_in": ["2.0"]}


def said(version: str, *flaws: dict[str, Any]) -> dict[str, Any]:
    return {"info": {"version": version}, "vulnerabilities": list(flaws)}


def run_audit(
    monkeypatch: pytest.MonkeyPatch, stdout: str, index: dict[str, Any]
) -> tuple[list[str], int]:
    """The verdict about a 1.0 and b 1.0 for what pip-audit prints and the index says."""

    def fetch(name: str) -> Any:
        if name not in index:
            raise OSError("no network")
        return index[name]

    answer = SimpleNamespace(stdout=stdout)
    monkeypatch.setattr(audit.subprocess, "run", lambda *_, **__: answer)
    pins, answers = {"a": "1.0", "b": "1.0"}, audit.Answers()
    audit.ask_pip_audit(answers)
    audit.ask_index(answers, pins, fetch)
    return audit.verdict(answers, pins)


def test_no_answer_is_not_taken_for_a_good_one(monkeypatch: pytest.MonkeyPatch) -> None:
    skipped = [{"name": name, "skip_reason": "not found"} for name in "ab"]
    for stdout in ("", "Traceback", json.dumps({"dependencies": skipped})):
        lines, code = run_audit(monkeypatch, stdout, {})
        assert code == 0 and lines[-1].startswith("audit       0 of 2 pinned versions")
        assert "2 of 2 pins" in lines[0] and "a 1.0, b 1.0" in lines[0]


def test_what_is_known_of_a_pin_fails_the_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"name": "A", "version": "1.0", "vulns": [{"id": "X", "fix_versions": ["1.1"]}]}
    lines, code = run_audit(monkeypatch, json.dumps({"dependencies": [found]}), {})
    assert code == 1 and lines[0] == "vulnerable  A 1.0: X; fixed in 1.1"
    lines, code = run_audit(monkeypatch, "", {"b": said("1.0", FLAW)})
    assert code == 1 and "b 1.0: PYSEC-1, CVE-1; fixed in 2.0" in lines[0]
    assert "1 of 2 pinned versions" in lines[-1]


def test_other_versions_and_withdrawn_reports_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    index = {"a": said("2.0", FLAW), "b": said("1.0", FLAW | {"withdrawn": "2026-01-01"})}
    lines, code = run_audit(monkeypatch, "", index)
    assert code == 0 and "not asked   1 of 2 pins" in lines[0] and "a 1.0" in lines[0]


def test_an_accepted_vulnerability_is_shown_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(audit, "ACCEPTED", {"CVE-1": "we never call it"})
    lines, code = run_audit(monkeypatch, "", {"a": said("1.0", FLAW), "b": said("1.0")})
    assert code == 0 and lines[0].startswith("accepted") and "we never call it" in lines[0]
