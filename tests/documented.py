"""The commands and Python blocks of the documentation, and which of them cannot be run by tests."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TUTORIAL = ROOT / "docs" / "tutorial.md"
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```([\w{}-]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")

# How a command begins, and why no test runs it. Every other one is run (make long).
NOT_RUN = {
    "make ": "it is what runs the tests, or makes their environment",
    "git clone ": "network",
    "pip install ": "network",
    "python -m venv ": "only of use to the installation that follows",
    "micro-rm check --data.source rpr$": "network",
    "micro-rm push ": "network",
    "micro-rm pull ": "network",
    "micro-rm run --config configs/paper/": "network, a GPU",
    "micro-rm report --config configs/paper/": "a run that needs network and a GPU",
    "micro-rm run --config configs/alpaca_styles.yaml": "a data set that lies beside the checkout",
    "micro-rm sweep --config configs/alpaca_styles.yaml": "the same data set",
    "micro-rm study --config configs/simulator.yaml": "minutes; test_simulated_runs.py has studies",
    "for i in 0 1 2; do ssh ": "other machines",
    "python benchmarks/calibration.py --runs 10 ": "minutes; in test_calibration.py it is small",
    "python benchmarks/embed.py --device cuda ": "a GPU",
}
# What a Python block holds, and why no test runs it.
BLOCKS_NOT_RUN = {"GRPOTrainer": "TRL, which no extra installs"}


def blocks(page: Path, *kinds: str) -> list[tuple[str, str]]:
    """(kind, text) of every fenced block of these kinds, in the order of the page."""
    return [found for found in BLOCK.findall(page.read_text("utf-8")) if found[0] in kinds]


def commands(text: str) -> list[str]:
    """What follows the prompt signs of a console block; an open quotation goes on over lines."""
    found: list[str] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append(line[2:])
        elif found and _is_open(found[-1]):
            found[-1] += "\n" + line
    return found


def of_page(page: Path) -> list[str]:
    """Every command of a page."""
    return [line for _, text in blocks(page, "console") for line in commands(text)]


def links(page: Path) -> list[str]:
    """Where a page leads within the repository: relative paths, with or without a section."""
    return [link for link in LINK.findall(page.read_text("utf-8")) if "://" not in link]


def anchors(page: Path) -> set[str]:
    """The sections of a page, as a link names them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


def why_not(command: str) -> str | None:
    """The reason why no test runs a command; None for the others."""
    bare = " ".join(shlex.split(command, comments=True)) + "$"
    return next((why for start, why in NOT_RUN.items() if bare.startswith(start)), None)


def _is_open(command: str) -> bool:
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return True
    return False
