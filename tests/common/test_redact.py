"""Tokens and passwords are redacted, control characters escaped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from micro_rm.common.errors import ConfigError, UserError
from micro_rm.common.redact import MARK, escape_controls, redact, redact_all
from micro_rm.configs.schema import BackboneConfig, Config
from micro_rm.run_dir.record import RunRecord

HUB = "hf_" + "AbCdEfGhIj" * 3 + "KLMN"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"403 for {HUB}: gated", HUB),
        ("https://me:letmein@host/x", "letmein"),
        ("https://onlytoken123@host/x", "onlytoken123"),
        ("GET /x?X-Amz-Signature=0f0f0f0f0f&b=1", "0f0f0f0f0f"),
        ("url?token=abcdefgh", "abcdefgh"),
        ("api_key=abcdefgh12", "abcdefgh12"),
        ("{'authorization': 'Bearer abcdef'}", "abcdef"),
        ("Authorization: Basic dXNlcjpwdw==", "dXNlcjpwdw=="),
        ("bearer abcdefghijklmnop123", "abcdefghijklmnop123"),
        ("key sk-" + "Ab1_" * 6, "Ab1_"),
        ("ghp_" + "a1B2" * 9, "a1B2"),
        ("AKIA" + "ABCDEFGH12345678", "ABCDEFGH"),
        ("eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl", "c2lnbmF0dXJl"),
    ],
)
def test_a_secret_is_known_by_its_form(text: str, secret: str) -> None:
    assert secret not in redact(text, {}) and MARK in redact(text, {})


def test_innocent_text_stays_as_it_is() -> None:
    text = """hf_rlhf and hf_hub are no tokens
        0123456789abcdef0123456789abcdef01234567
        mail me@example.org about https://example.org/a@b
        the token ids of a basic sentence; token=5
        data.train: expected a file, found 'a.jsonl'
        runs/task-sk-learn/report.html"""
    environment = {"TOKENIZERS_PARALLELISM": "sentence", "HF_TOKEN_PATH": "token ids"}
    assert redact(text, environment) == text


def test_the_values_of_secret_variables_are_known() -> None:
    environment = {"MY_API_KEY": "correct-horse", "SECRET": "short", "DB_PASSWORD": "correct"}
    assert redact("correct-horse, short", environment) == f"{MARK}, short"


def test_everything_in_a_json_value_is_redacted() -> None:
    value = {"a": [HUB, 1, None, {"b": (f"x {HUB}",)}], HUB: True}
    assert HUB not in json.dumps(redact_all(value))
    assert redact_all({"a": 1.5, "b": [True, None]}) == {"a": 1.5, "b": [True, None]}


def test_the_record_keeps_no_secret_and_is_still_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "plain-looking-value")
    config = replace(Config(), backbone=BackboneConfig(name=f"https://u:{HUB}@host/m"))
    record = RunRecord(tmp_path, config)
    with record.stage("train", "inputs") as notes:
        notes["said"] = "plain-looking-value"
    text = (tmp_path / "record.json").read_text("utf-8")
    assert HUB not in text and "plain-looking-value" not in text and text.count(MARK) == 2
    assert RunRecord(tmp_path, config).done("train", "inputs")


def test_errors_are_redacted_wherever_they_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "plain-looking-value")
    for error in (UserError(f"a {HUB}"), ConfigError("plain-looking-value")):
        assert MARK in str(error) and not {HUB, "plain-looking-value"} & set(str(error).split())


def test_controls_are_spelled_out_and_languages_are_not() -> None:
    assert escape_controls("a\tb\n\u05e9\u05dc\u05d5\u05dd \u4f60\u597d 🙂") == (
        "a\tb\n\u05e9\u05dc\u05d5\u05dd \u4f60\u597d 🙂"
    )
    shown = escape_controls("\x1b]52;c;aGk=\x07 \x9b2J \x00 \r \u202e \ud800")
    assert shown == r"\x1b]52;c;aGk=\x07 \x9b2J \x00 \r \u202e \ud800"
