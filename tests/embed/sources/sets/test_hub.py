"""Published data sets from a hub: what ``datasets`` makes of them, and every way to be refused."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from micro_rm.embed.sources.hub import _reason
from micro_rm.embed.sources.sets import PUBLISHED

from .conftest import FIXTURES
from .fake_hub import FakeHub, run_python, serve

Load = Callable[..., Any]
Refused = dict[str, tuple[int, str]]
Ask = Callable[..., subprocess.CompletedProcess[str]]
HELPSTEER2 = PUBLISHED["helpsteer2"].upstream
READ_ALL = """
import json
from micro_rm.configs.data import DataConfig
from micro_rm.embed.sources import open_pairs
from micro_rm.embed.sources.sets import PUBLISHED
found = {}
for name, source in PUBLISHED.items():
    for streaming in (False, True):
        pairs = open_pairs(DataConfig(source=name, streaming=streaming, revision="main"))
        found[f"{name} {streaming}"] = [
            [pair.pair_id, pair.split, pair.context, pair.margin] for pair in pairs
        ] + [len(pairs.account.refusals)]
print(json.dumps(found))
"""
# Most of a command's time are its imports.
RUN_ALL = """
import contextlib, io, json, sys
from micro_rm.pipeline import main
for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    print(json.dumps([code, err.getvalue()]))
"""


def repository(name: str) -> dict[str, bytes]:
    """The fixture of a data set as its repository, with a card that names the splits."""
    upstream = PUBLISHED[name].upstream
    files: dict[str, bytes] = {}
    configs: dict[str, list[str]] = {}
    for part in upstream.parts:
        path = f"{part.folder or part.subset or 'data'}/{part.split}.jsonl"
        files[path] = (FIXTURES / name / f"{part.name}.jsonl").read_bytes()
        if part.folder is None:
            listed = configs.setdefault(part.subset or "default", [])
            listed.append(f"  - split: {part.split}\n    path: {path}\n")
    card = "".join(
        f"- config_name: {config}\n  data_files:\n{''.join(splits)}"
        for config, splits in configs.items()
    )
    if card:
        files["README.md"] = f"---\nconfigs:\n{card}---\n".encode()
    return files


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    repos = {
        f"datasets/{source.upstream.repo}": repository(name) for name, source in PUBLISHED.items()
    }
    with serve(FakeHub(repos, commit=HELPSTEER2.revision)) as running:
        yield running


@pytest.fixture
def ask(hub: FakeHub, tmp_path: Path) -> Ask:
    """Run Python with the hub of this file and an empty cache; ``settings`` are variables."""
    return lambda *words, **settings: run_python(hub, tmp_path / "hub", *words, **settings)


def check(*flags: str) -> list[str]:
    return ["-m", "micro_rm.pipeline", "check", "--data.source", "helpsteer2", *flags]


@pytest.mark.long
def test_every_set_reads_the_same_from_a_hub_as_from_local_copies(ask: Ask, load: Load) -> None:
    done = ask("-c", READ_ALL)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name in PUBLISHED:
        local = load(name)
        expected = [[p.pair_id, p.split, p.context, p.margin] for p in local.pairs]
        for streaming in (False, True):
            assert found[f"{name} {streaming}"] == [*expected, len(local.account.refusals)], name


@pytest.mark.long
def test_the_pinned_commit_is_read_once_and_then_from_the_cache(ask: Ask, hub: FakeHub) -> None:
    first = ask(*check())
    assert "39" in first.stdout and f"{HELPSTEER2.repo}@{HELPSTEER2.revision[:12]}" in first.stdout
    assert "train: 13 rows, expected 20,324: a part of the data" in first.stdout
    assert any(line.endswith("train.jsonl") for line in hub.requests)
    again = ask(*check(), HF_HUB_OFFLINE="1")
    assert again.stdout == first.stdout and not hub.requests


@pytest.mark.long
def test_another_cached_revision_is_not_taken_for_the_pinned_one(ask: Ask, hub: FakeHub) -> None:
    hub.commit, known = "d" * 40, hub.commit
    try:
        assert ask(*check("--data.revision", "main")).returncode == 1
    finally:
        hub.commit = known
    refused = ask(*check(), HF_HUB_OFFLINE="1")
    assert refused.returncode == 2
    assert f"the local cache has revision {'d' * 40}" in refused.stderr


@pytest.fixture(scope="module")
def refused(hub: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> Refused:
    """Exit status and errors of commands that are refused, each about a set of its own."""
    repo = {name: f"datasets/{source.upstream.repo}" for name, source in PUBLISHED.items()}
    whole = dict(hub.repos)
    hub.errors |= {repo["helpsteer2"]: (403, "GatedRepo"), repo["rpr"]: (401, "RepoNotFound")}
    hub.repos[repo["helpsteer"]] = {
        "train.jsonl": (FIXTURES / "helpsteer" / "train.jsonl").read_bytes()
    }
    asked = {
        "gated": ["check", "--data.source", "helpsteer2"],
        "missing": ["check", "--data.source", "rpr"],
        "revision": ["check", "--data.source", "preference_700k", "--data.revision", "v9"],
        "split": ["check", "--data.source", "helpsteer", "--data.revision", "main"],
    }
    index = tmp_path_factory.mktemp("refused") / "hub"
    try:
        done = run_python(hub, index, "-c", RUN_ALL, json.dumps(list(asked.values())))
    finally:
        hub.errors.clear()
        hub.repos.update(whole)
    assert done.returncode == 0, done.stderr
    return dict(zip(asked, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.long
def test_what_a_hub_refuses_is_an_error_with_a_remedy(refused: Refused) -> None:
    local = "or give local copies of its files with --data.dir"
    for why, words in (
        ("gated", f"is gated: accept its terms.*HF_TOKEN.*{local}"),
        ("missing", f"is not on the hub, or it is private.*HF_ENDPOINT.*{local}"),
        ("revision", f"no such revision.*--data.revision.*{local}"),
        ("split", "has no split 'validation': upstream has changed"),
    ):
        is_an_error_with_a_remedy(*refused[why], words)


@pytest.mark.long
def test_what_is_not_in_the_cache_is_an_error_with_a_remedy(ask: Ask) -> None:
    done = ask(*check(), HF_HUB_OFFLINE="1")
    words = "not in the local cache.*HF_HUB_OFFLINE.*or give local copies .* with --data.dir"
    is_an_error_with_a_remedy(done.returncode, done.stderr, words)


def is_an_error_with_a_remedy(code: int, errors: str, words: str) -> None:
    assert code == 2 and "Traceback" not in errors
    (line,) = [line for line in errors.splitlines() if line.startswith("micro-rm:")]
    assert re.search(words, line), line


def test_a_hub_that_does_not_answer_is_a_matter_of_the_network() -> None:
    """In one step: the libraries try again for half a minute first."""
    part = HELPSTEER2.parts[0]
    reason = _reason(ConnectionError("Couldn't reach the Hub"), part)
    assert reason is not None and "check the network" in reason
    assert _reason(ArithmeticError(), part) is None
