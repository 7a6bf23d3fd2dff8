"""What the documentation tells people to type: every command parses, the tutorial's all work.

The tutorial is typed by ``make long``: it embeds, trains, sweeps, exports and serves for real.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from micro_rm.configs.command_line import parse
from micro_rm.tests.documented import (
    BLOCK,
    NOT_RUN,
    PAGES,
    ROOT,
    TUTORIAL,
    blocks,
    of_page,
    why_not,
)

# Fewer prompts than the tutorial's own, which take a minute longer to embed.
PROMPTS = 40


def of_micro_rm(line: str) -> list[str] | None:
    """The arguments of a command of ours, without files that a reader has and we have not."""
    if line.split(" ")[0] != "micro-rm":
        return None
    words = shlex.split(line, comments=True)[1:]
    for sign in ("|", ">", "&"):
        words = words[: words.index(sign)] if sign in words else words
    words = [word for word in words if word != "..."]
    while "--config" in words:
        place = words.index("--config")
        del words[place : place + 2]
    return [word.replace("$SLURM_ARRAY_TASK_ID", "0").rstrip("&") for word in words]


ALL = [
    pytest.param(found, id=f"{page.name}-{number}")
    for page in PAGES
    for number, line in enumerate(of_page(page))
    if (found := of_micro_rm(line)) is not None
]


@pytest.mark.long
@pytest.mark.parametrize("words", ALL)
def test_a_command_of_the_documentation_is_one(words: list[str]) -> None:
    try:
        parse(words)
    except SystemExit as end:  # --help, --print_config
        assert not end.code


def test_there_are_commands_to_try() -> None:
    assert len(ALL) > 40


def test_commands_are_in_blocks_that_are_run() -> None:
    kinds = {kind for page in PAGES for kind, _ in BLOCK.findall(page.read_text("utf-8"))}
    assert kinds <= {"console", "python", "json", "yaml", ""}
    for page in PAGES:
        for _, text in blocks(page, ""):
            assert not re.search(r"^(\$ )?(micro-rm|python|pip) ", text, re.MULTILINE), page


def test_what_is_not_run_is_there_to_be_run() -> None:
    """A reason that no command needs any more is taken out of the list."""
    left_out = [line for page in PAGES for line in of_page(page) if why_not(line)]
    for start in NOT_RUN:
        assert any((line + "$").startswith(start) for line in left_out), start


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """The tutorial typed into a shell, from its first command to its last."""
    place = tmp_path_factory.mktemp("tutorial")
    (place / "docs").symlink_to(ROOT / "docs")
    script = ["set -e"]
    for kind, text in blocks(TUTORIAL, "console", "python"):
        if kind == "python":
            script.append(f"python - <<'END_OF_PYTHON'\n{text}END_OF_PYTHON")
            continue
        for line in text.splitlines():
            line = line.removeprefix("$ ").replace("example.py", f"example.py {PROMPTS}")
            script += [f"echo {shlex.quote('>>> ' + line)}", line]
    scripts = str(Path(sys.executable).parent)
    environment = os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    for name in ("JAX_DISABLE_MOST_OPTIMIZATIONS", "XLA_FLAGS"):  # programs are those of users
        environment.pop(name, None)
    return subprocess.run(
        ["bash", "-c", "\n".join(script)],
        cwd=place,
        env=environment | {"HF_HUB_OFFLINE": "1", "COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


@pytest.mark.long
def test_every_command_of_the_tutorial_works(typed: subprocess.CompletedProcess[str]) -> None:
    assert typed.returncode == 0, typed.stdout[-3000:] + typed.stderr[-3000:]
    for line in of_page(TUTORIAL):
        assert line.split(" ")[0] in typed.stdout


@pytest.mark.long
def test_the_tutorial_shows_what_it_promises(typed: subprocess.CompletedProcess[str]) -> None:
    for words in ("By validation NLL of micro", "0 problems", "micro 0.", "0 found", '"results"'):
        assert words in typed.stdout, words
