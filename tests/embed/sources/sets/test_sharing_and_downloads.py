"""Stores on a hub and back, and dry runs that say what they would fetch; nothing here is mocked."""

from __future__ import annotations

import filecmp
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from micro_rm.embed.sources.sets import PUBLISHED

from .conftest import FIXTURES
from .fake_hub import FakeHub, run_python, serve

ROOT = Path(__file__).resolve().parents[4]
RPR = PUBLISHED["rpr"].upstream
MODEL = "tiny/llama"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def hub(backbone_path: Callable[[str], Path]) -> Iterator[FakeHub]:
    parts = [f"{part.name}.jsonl" for part in RPR.parts]
    files = {f"data/{name}": (FIXTURES / "rpr" / name).read_bytes() for name in parts}
    model = {path.name: path.read_bytes() for path in backbone_path("llama").iterdir()}
    repos = {f"datasets/{RPR.repo}": files, f"models/{MODEL}": model}
    with serve(FakeHub(repos, commit=RPR.revision)) as running:
        yield running


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Working directory and cache of all commands of this file."""
    return tmp_path_factory.mktemp("box")


@pytest.fixture(scope="module")
def micro_rm(hub: FakeHub, index: Path) -> Run:
    """Run a command with the hub of this file."""

    def run(*words: str, **settings: str) -> subprocess.CompletedProcess[str]:
        command = ["-m", "micro_rm.pipeline", *words]
        settings = {"HF_TOKEN": "hf_none", "HF_HOME": str(index / "hub")} | settings
        return run_python(hub, index, *command, cwd=index, **settings)

    return run


@pytest.fixture(scope="module")
def store(micro_rm: Run, hub: FakeHub, index: Path) -> Path:
    """A store whose data and backbone came from the hub."""
    done = micro_rm("embed", *paper())
    assert done.returncode == 0, done.stderr
    assert any(line.endswith("model.safetensors") for line in fetched(hub))
    return index / "store"


@pytest.fixture(scope="module")
def shared(store: Path, micro_rm: Run) -> str:
    """The repository that the store was pushed to."""
    pushed = micro_rm("push", store.name, "--share.repo", "me/vectors")
    assert pushed.returncode == 0, pushed.stderr
    assert "verified and uploaded: http" in pushed.stdout
    return "me/vectors"


def paper(*flags: str) -> list[str]:
    return [
        "--config", str(ROOT / "configs" / "paper" / "table3.yaml"),
        "--backbone.name", MODEL,
        "--backbone.revision", RPR.revision,
        "--backbone.dtype", "float32",
        "--backbone.max_length", "512",
        "--adapt.budget", "2",
        "--adapt.pool", "4",
        "--store.dir", "store",
        *flags,
    ]  # fmt: skip


def fetched(hub: FakeHub) -> list[str]:
    """Requests that brought data rather than names."""
    return [line for line in hub.requests if line.startswith("GET") and "/resolve/" in line]


@pytest.mark.long
def test_a_dry_run_names_what_it_would_download_and_then_plans_without_asking(
    micro_rm: Run, hub: FakeHub, store: Path
) -> None:
    elsewhere = paper("--dry_run", "--store.dir", "other")
    first = micro_rm("run", *elsewhere, HF_HOME="empty")
    assert first.returncode == 0, first.stderr
    for part in ("train", "test"):
        assert f"download {RPR.repo}@{RPR.revision[:12]}:{part}" in first.stdout
    assert f"download {MODEL}@{RPR.revision[:12]}, 0 MB" in first.stdout
    assert not fetched(hub)

    again = micro_rm("run", *elsewhere, HF_HUB_OFFLINE="1")
    assert again.returncode == 0, again.stderr
    assert "download" not in again.stdout
    assert "72 pairs, 269 distinct sequences" in again.stdout
    assert "tokens one by one" in again.stdout and "bytes, about" in again.stdout
    assert not hub.requests
    assert not (store.parent / "other").exists()


@pytest.mark.long
def test_a_dry_run_without_a_hub_says_so_once(micro_rm: Run) -> None:
    flags = paper("--dry_run", "--store.dir", "other")
    done = micro_rm("run", *flags, HF_HUB_OFFLINE="1", HF_HOME="empty")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("size not known") == 3
    assert done.stdout.count("HF_HUB_OFFLINE is set") == 1


@pytest.mark.long
def test_a_store_comes_back_from_the_hub_byte_for_byte(
    micro_rm: Run, hub: FakeHub, store: Path, shared: str
) -> None:
    index = store.parent
    pulled = micro_rm("pull", "copy", "--share.repo", shared)
    assert pulled.returncode == 0, pulled.stderr
    assert f"{shared} at {RPR.revision} verified: copy" in pulled.stdout
    names = sorted(hub.repos[f"datasets/{shared}"])
    assert {"manifest.json", "pairs/rpr.h5", "quarantine/rpr.jsonl"} < set(names)
    assert filecmp.cmpfiles(index / "store", index / "copy", names, shallow=False)[0] == names
    assert {path.name for path in (index / "copy").iterdir()} == {
        "manifest.json", "shards", "pairs", "quarantine"
    }  # fmt: skip

    again = micro_rm("pull", "copy", "--share.repo", shared)
    assert again.returncode == 2 and "there is a store already" in again.stderr


@pytest.mark.long
def test_tables_of_texts_may_stay_at_home(micro_rm: Run, hub: FakeHub, store: Path) -> None:
    done = micro_rm("push", store.name, "--share.repo", "me/bare", "--share.tables", "false")
    assert done.returncode == 0, done.stderr
    assert sorted(hub.repos["datasets/me/bare"]) == ["manifest.json", "shards/000000.h5"]


@pytest.mark.long
def test_a_store_that_was_changed_is_neither_sent_nor_taken(
    micro_rm: Run, hub: FakeHub, shared: str
) -> None:
    files: dict[str, Any] = dict(hub.repos[f"datasets/{shared}"])
    damaged = bytearray(files["shards/000000.h5"])
    damaged[-5] ^= 1
    hub.repos["datasets/me/damaged"] = files | {"shards/000000.h5": bytes(damaged)}
    taken = micro_rm("pull", "damaged", "--share.repo", "me/damaged")
    assert taken.returncode == 2
    assert "bytes differ from the manifest" in taken.stderr

    sent = micro_rm("push", "damaged", "--share.repo", "me/worse")
    assert sent.returncode == 2 and "nothing was uploaded" in sent.stderr
    assert "datasets/me/worse" not in hub.repos


@pytest.mark.long
def test_what_is_no_store_on_the_hub_is_an_error(micro_rm: Run) -> None:
    for flags, words in (
        (["--share.repo", "me/nothing"], "me/nothing: the hub refuses.*HF_TOKEN"),
        (["--share.repo", RPR.repo], "no manifest.json, this is not a store"),
        ([], r"share\.repo: expected a repository such as owner/name"),
    ):
        done = micro_rm("pull", "none", *flags)
        assert done.returncode == 2
        assert re.search(words, done.stderr, re.DOTALL), done.stderr
