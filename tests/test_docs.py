"""What the documentation tells people to type is right: names, links, and the whole tutorial.

test_docs_run.py runs the commands of the other pages; those that it cannot run are parsed here.
The tutorial is typed by ``make long``: it embeds, trains, sweeps, exports and serves for real.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from micro_rm.configs.command_line import parse
from micro_rm.configs.schema import Config
from micro_rm.tests.documented import (
    BLOCK,
    NOT_RUN,
    PAGES,
    README,
    ROOT,
    TUTORIAL,
    anchors,
    blocks,
    links,
    of_page,
    why_not,
)
from micro_rm.tests.test_layering import PARTS

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


NOT_RUN_BUT_PARSED = [
    pytest.param(found, id=f"{page.name}-{number}")
    for page in PAGES
    for number, line in enumerate(of_page(page))
    if why_not(line) and (found := of_micro_rm(line)) is not None
]


@pytest.mark.long
@pytest.mark.parametrize("words", NOT_RUN_BUT_PARSED)
def test_a_command_that_no_test_runs_is_one(words: list[str]) -> None:
    try:
        parse(words)
    except SystemExit as end:  # --help, --print_config
        assert not end.code


def test_commands_are_in_blocks_that_are_run() -> None:
    kinds = {kind for page in PAGES for kind, _ in BLOCK.findall(page.read_text("utf-8"))}
    assert kinds <= {"console", "python", "json", "yaml", "{eval-rst}", ""}
    for page in PAGES:
        for _, text in blocks(page, ""):
            assert not re.search(r"^(\$ )?(micro-rm|python|pip) ", text, re.MULTILINE), page


def test_the_readme_is_short() -> None:
    assert len(README.read_text("utf-8").splitlines()) <= 200


def test_links_lead_to_files_and_sections() -> None:
    found = [(page, link) for page in PAGES for link in links(page)]
    assert len(found) > 30
    for page, link in found:
        name, _, section = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), f"{page} links {link}"
        assert not section or section in anchors(target), f"{page} links {link}"


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_files_that_a_page_names_are_there(page: str) -> None:
    named = re.findall(
        r"`([\w.]+(?:/[\w.]+)*(?:/|\.(?:py|md|j2|txt|json)))`", (ROOT / page).read_text()
    )
    assert len(named) > 5
    made = {"record.json", "report.json", "manifest.json"}  # by a run or in a store
    short = {"rpr.py", "single_bt_exact.py", "test_every_set.py"}  # in a folder named beside them
    for name in named:
        assert "NAME" in name or name in made | short or (ROOT / name).exists(), name


def test_the_architecture_has_the_parts_in_their_order() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    order = [*PARTS, "pipeline"]
    assert f"`{' < '.join(order).replace('embed < heads', 'embed, heads')}`" in page


def sections(config: type) -> Iterator[str]:
    """Every dataclass of the configuration by its full name."""
    yield f"{config.__module__}.{config.__qualname__}"
    hints = get_type_hints(config)
    for field in fields(config):
        for kind in (hints[field.name], *get_args(hints[field.name])):
            if is_dataclass(kind) and isinstance(kind, type):
                yield from sections(kind)


def test_the_reference_has_every_section_of_the_configuration() -> None:
    page = (ROOT / "docs" / "api" / "configuration.md").read_text("utf-8")
    written = re.findall(r"^\.\. autoclass:: (\S+)$", page, re.MULTILINE)
    assert sorted(written) == sorted(set(sections(Config)))


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
    # Whatever fails, the service that it has started must not outlive the shell.
    script = ["set -e", "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT"]
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
