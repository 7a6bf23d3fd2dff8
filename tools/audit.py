"""Known vulnerabilities of the pinned versions, asked with pip-audit: ``make audit``.

Exit code 0: nothing is known against any version that could be asked about, and the others are
named; 1: something is known; 2: pip-audit itself is missing. No answer is never taken for a good
one: pip-audit says "No known vulnerabilities found" of packages that it could not ask about, too.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PINS = Path(__file__).resolve().parent.parent / "constraints.txt"
SECONDS = 60
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s#]+)")
# Vulnerabilities that do not concern this project, with the reason, by their id.
ACCEPTED: Mapping[str, str] = {}


@dataclass
class Answers:
    """What is known: vulnerabilities in words, and the pins that nobody said anything about."""

    asked: set[str] = field(default_factory=set)
    found: list[str] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)

    def add(self, name: str, version: str, vulnerabilities: Sequence[Mapping[str, Any]]) -> None:
        """Note an answer about one pin, with the vulnerabilities as either source lists them."""
        self.asked.add(normal(name))
        for item in vulnerabilities:
            if item.get("withdrawn"):
                continue
            ids = [item["id"], *item.get("aliases", ())]
            fixed = item.get("fix_versions") or item.get("fixed_in") or ["no version"]
            text = f"{name} {version}: {', '.join(ids)}; fixed in {', '.join(fixed)}"
            known = [ACCEPTED[one] for one in ids if one in ACCEPTED]
            (self.accepted if known else self.found).append("; ".join([text, *known]))


def normal(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_pins(text: str) -> dict[str, str]:
    """Versions by name of a constraints file."""
    return {normal(match[1]): match[2] for line in text.splitlines() if (match := PIN.match(line))}


def read_audit(answers: Answers, report: str) -> None:
    """Note what pip-audit's JSON says; what it skipped was not asked."""
    for item in json.loads(report)["dependencies"]:
        if "skip_reason" not in item:
            answers.add(item["name"], item["version"], item["vulns"])


def ask_pip_audit(answers: Answers) -> None:
    """Ask both services that pip-audit knows, until every pin has an answer."""
    for service in ("pypi", "osv"):
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(PINS), "--no-deps"]
        command += ["--disable-pip", "--progress-spinner=off", "--format=json"]
        command += ["--timeout=10", f"--vulnerability-service={service}"]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=SECONDS, check=False
            )
            read_audit(answers, done.stdout)
        except (subprocess.TimeoutExpired, ValueError, KeyError):
            continue  # nobody answered: the pins stay unasked
        if len(answers.asked) == len(read_pins(PINS.read_text("utf-8"))):
            return


def ask_index(
    answers: Answers, pins: Mapping[str, str], fetch: Callable[[str], Mapping[str, Any]]
) -> None:
    """Ask the package index about the rest: of a package's newest version it says what is known."""

    def ask(name: str) -> Mapping[str, Any] | None:
        try:
            return fetch(name)
        except (OSError, ValueError):
            return None

    rest = [name for name in pins if name not in answers.asked]
    with ThreadPoolExecutor(8) as pool:
        for name, said in zip(rest, pool.map(ask, rest), strict=True):
            if said and said["info"]["version"] == pins[name] and "vulnerabilities" in said:
                answers.add(name, pins[name], said["vulnerabilities"])


def fetch_newest(name: str) -> Mapping[str, Any]:
    """What the package index says of a package, at the address that pip itself has for it."""
    from pip._internal.models.index import PyPI

    with urllib.request.urlopen(f"{PyPI.pypi_url}/{name}/json", timeout=10) as answer:
        return json.load(answer)


def verdict(answers: Answers, pins: Mapping[str, str]) -> tuple[list[str], int]:
    """Lines to print and the exit code."""
    lines = [f"vulnerable  {text}" for text in answers.found]
    lines += [f"accepted    {text}" for text in answers.accepted]
    unasked = [f"{name} {version}" for name, version in pins.items() if name not in answers.asked]
    asked = len(pins) - len(unasked)
    if unasked:
        lines.append(
            f"not asked   {len(unasked)} of {len(pins)} pins: no service that can be reached knows "
            f"these versions: {', '.join(unasked)}"
        )
    known = f"{len(answers.found)} known vulnerabilities" if answers.found else "nothing known"
    lines.append(f"audit       {asked} of {len(pins)} pinned versions could be asked: {known}")
    return lines, 1 if answers.found else 0


def main() -> int:
    """Ask, print and say it with the exit code."""
    try:
        import pip_audit  # noqa: F401
    except ImportError:
        print("audit       pip-audit is not installed; run make audit", file=sys.stderr)
        return 2
    pins, answers = read_pins(PINS.read_text("utf-8")), Answers()
    ask_pip_audit(answers)
    ask_index(answers, pins, fetch_newest)
    lines, code = verdict(answers, pins)
    print("\n".join(lines))
    return code


if __name__ == "__main__":
    sys.exit(main())
