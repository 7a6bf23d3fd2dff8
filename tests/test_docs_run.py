"""The documentation's commands and Python blocks, run page by page on a small run (make long).

``NOT_RUN`` in documented.py lists what no test can run, and why; a new command is run by default.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from micro_rm.pipeline import main
from micro_rm.tests.documented import (
    BLOCKS_NOT_RUN,
    PAGES,
    ROOT,
    TUTORIAL,
    blocks,
    commands,
    why_not,
)
from micro_rm.tests.embed.conftest import _make_tokenizer

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("default")]
# Texts of the documentation, and what they are called here.
HERE = {"/mnt/backup/": "backup/", "--nproc-per-node 8": "--nproc-per-node 2"}
# The same for Python: a data set large enough for the labelled rows of the default budget, and a
# smaller sweep.
HERE_IN_PYTHON = {
    'embed("preferences.jsonl"': 'embed("many/preferences.jsonl"',
    "range(5)": "range(2)",
}
# Settings that a command gets in addition: answers to its questions, and less to compute.
ALSO = {
    "micro-rm run --data.train": ["--adapt.budget=4", "--methods=single_bt,micro_stage1,micro"],
    "micro-rm gc": ["--yes"],
    "micro-rm delete": ["--yes"],
}
SETTINGS = """
methods: single_bt,micro_stage1,micro
data: {name: rows, train: preferences.jsonl}
backbone: {name: path/or/hub-id}
store: {dir: STORE}
train: {num_heads: 3, epochs: 2}
adapt: {budget: 4, draws: 2, epochs: 3}
"""
# Statuses other than 0: one row of the data is refused.
STATUS = {"micro-rm check preferences.jsonl": 1}
RAN = [page for page in PAGES if page != TUTORIAL and blocks(page, "console", "python")]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the files that the documentation supposes, and a run of a tiny Llama."""
    place = tmp_path_factory.mktemp("documented")
    _write_backbone(place / "path" / "or" / "hub-id")
    rows = list(_rows(48))
    _write_rows(place / "preferences.jsonl", [*rows, rows[0] | {"chosen": 5, "user": "cid"}])
    _write_rows(
        place / "more.jsonl", [row | {"prompt": row["prompt"] + " Really?"} for row in rows]
    )
    (place / "many").mkdir()
    _write_rows(place / "many" / "preferences.jsonl", _rows(320))
    for name, store in (("mine", "store"), ("demo", "cache/store/demo"), ("job", "jobs/store")):
        text = SETTINGS.replace("STORE", store)
        (place / f"{name}.yaml").write_text(f"{text}run: {{dir: runs/{name}}}\n", "utf-8")
    (place / "copies").mkdir()
    shutil.copytree(ROOT / "tests/embed/sources/fixtures/rpr", place / "copies" / "rpr")
    for name in ("configs", "docs", "benchmarks"):
        (place / name).symlink_to(ROOT / name)
    with _inside(place):
        assert main(["run", "--config", "demo.yaml"]) == 0
        assert main(["run", "--config", "mine.yaml"]) == 0
    shutil.copyfile(place / "store/quarantine/rows.jsonl", place / "fixed.jsonl")
    _correct(place / "fixed.jsonl")
    return place


@pytest.mark.parametrize("page", RAN, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_says_works(
    page: Path,
    prepared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    place = tmp_path / "place"
    shutil.copytree(prepared, place, symlinks=True)
    scripts = str(Path(sys.executable).parent)
    monkeypatch.setenv("PATH", f"{scripts}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.chdir(place)
    with _Servers() as serve:
        for kind, text in blocks(page, "console", "python"):
            if kind == "python":
                for written, here in HERE_IN_PYTHON.items():
                    text = text.replace(written, here)
                if not any(sign in text for sign in BLOCKS_NOT_RUN):
                    exec(compile(text, page.name, "exec"), {})
                continue
            for command in filter(lambda line: not why_not(line), commands(text)):
                code = _run(command, serve)
                wanted = next((n for start, n in STATUS.items() if command.startswith(start)), 0)
                assert code == wanted, f"{command}\n" + "".join(capfd.readouterr())[-3000:]
                if command.startswith("cp "):
                    _correct(place / "fixed.jsonl")


def _run(command: str, serve: Callable[[list[str]], None]) -> int:
    """The exit status of a command: in this process where no shell is needed, to save start-ups."""
    for written, here in HERE.items():
        command = command.replace(written, here)
    words = shlex.split(command, comments=True)
    words += next((more for start, more in ALSO.items() if command.startswith(start)), [])
    if words[:2] == ["micro-rm", "serve"]:
        serve(words)
        return 0
    if words[0] == "micro-rm" and not {"|", ">", "&", "..."} & set(words):
        with suppress_exit() as status:
            status.append(main([os.path.expandvars(word) for word in words[1:]]))
        return status[-1]
    command = command.replace("localhost:8000", f"127.0.0.1:{_Servers.port}")
    return subprocess.run(["bash", "-c", command], check=False, timeout=300).returncode


@contextmanager
def suppress_exit() -> Iterator[list[int]]:
    status: list[int] = []
    try:
        yield status
    except SystemExit as end:
        status.append(int(end.code or 0))


class _Servers:
    """``micro-rm serve`` beside the commands that follow it; stopped at the end of the page."""

    port = 0

    def __enter__(self) -> Callable[[list[str]], None]:
        self.running: list[subprocess.Popen[bytes]] = []
        return self.start

    def start(self, words: list[str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            _Servers.port = free.getsockname()[1]
        server = subprocess.Popen([*words, f"--serve.port={_Servers.port}"])
        self.running.append(server)
        for _ in range(600):
            assert server.poll() is None, f"{words} ended with {server.returncode}"
            with suppress(urllib.error.URLError):
                urllib.request.urlopen(f"http://127.0.0.1:{_Servers.port}/healthz", timeout=5)
                return
            time.sleep(0.2)
        raise AssertionError(f"{words} does not answer")

    def __exit__(self, kind: object, *_rest: object) -> None:
        for server in self.running:
            server.terminate()
            assert server.wait(timeout=60) == 0 or kind is not None


@contextmanager
def _inside(place: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(place)
    try:
        yield
    finally:
        os.chdir(before)


def _rows(count: int) -> Iterator[dict[str, object]]:
    """Rows of two people with two opposed tastes; a quarter of the prompts are for tests."""
    for number in range(count):
        yield {
            "prompt": f"Question {number // 2}: how far is the moon?",
            "chosen": f"About {number} km." + " It is far." * (number % 5),
            "rejected": f"Ask the sun, number {number}.",
            "attribute": ("brief", "long")[number % 2],
            "context": ("be brief", "use many words")[number % 2],
            "user": ("ann", "ben")[number % 3 == 0],
            "split": "test" if number % 8 < 2 else "train",
        }


def _write_rows(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def _correct(path: Path) -> None:
    """Give the refused row of a copied quarantine an answer that is text."""
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    for line in lines:
        line["raw"]["chosen"] = "Five."
    _write_rows(path, lines)


def _write_backbone(place: Path) -> None:
    """A Llama with random weights and room for the default length."""
    import transformers

    tokenizer = _make_tokenizer("llama")
    tokenizer.save_pretrained(place)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        pad_token_id=int(tokenizer.get_vocab()[str(tokenizer.pad_token)]),
    )
    transformers.LlamaModel(config).save_pretrained(place)
