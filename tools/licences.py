"""The licence of every dependency, direct or not: ``python tools/licences.py --write``.

Read from the metadata of what is installed, so run it in the environment that ``make test`` makes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

PAGE = Path(__file__).resolve().parent.parent / "docs" / "licences.md"
OURS = "micro-rm"
# In this order: a package is listed under the first that brings it.
EXTRAS = ("", "embed", "demo", "ray", "serve", "audit", "docs", "dev")
NAMES = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache License": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD 3-Clause License": "BSD-3-Clause",
    "BSD License": "BSD",
    "ISC License": "ISC",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "PSFL": "PSF-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
# Ask for no more than that their own notices are kept.
PERMISSIVE = {
    *("0BSD", "AFL-2.1", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD", "BSD-2-Clause"),
    *("BSD-3-Clause", "BSL-1.0", "CC0-1.0", "CNRI-Python", "ISC", "MIT", "MIT-CMU", "PSF-2.0"),
    *("Python-2.0", "Unlicense", "Zlib"),
}
EXPLAINED = {
    "certifi": "MPL-2.0 covers its own file of certificates; ray and pip-audit use it as it is.",
    "docutils": "Public domain, single files under BSD-2-Clause; the one under GPL-3.0, a mode for "
    "Emacs, is not in the wheel. Only make docs uses it.",
    "hypothesis": "MPL-2.0 covers its own files; it is used as it is, by the tests alone.",
    "tqdm": "MPL-2.0 covers some of its own files; it is used as it is and not shipped with us.",
}
HEAD = """# Licences

micro-rm is under Apache-2.0 (`LICENSE`). It ships none of the packages below: pip installs them
from where their authors publish them. The table says what their metadata states, for the versions
in `constraints.txt`; `python tools/licences.py --write` writes it anew, and a test fails where a
direct dependency is missing or a licence is neither permissive nor explained here.

What it does not cover: libraries that are compiled into a package's wheels have licences of their
own, which the wheel brings along; NumPy's and SciPy's, for example, hold parts of the GNU Fortran
runtime under GPL-3.0 with the exception for programs that use it. The extra `cuda` and a CUDA build
of torch bring NVIDIA's libraries under NVIDIA's own terms. Models and data sets have terms of their
own: docs/data.md names those of the data sets, and a backbone's are on its page.

"""


@dataclass(frozen=True)
class Licence:
    """One line of the table."""

    name: str
    version: str
    licence: str
    brought_by: str
    direct: bool


def normal(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def licence_of(info: Mapping[str, str], classifiers: Iterable[str]) -> str:
    """The licence that a package's metadata states, by its short name; ``unknown`` if none."""
    expression = info.get("License-Expression")
    if expression:
        return expression
    stated = (info.get("License") or "").strip()
    if stated and "\n" not in stated and len(stated) < 40:
        return NAMES.get(stated, stated)
    found = [item.split("::")[-1].strip() for item in classifiers if item.startswith("License ::")]
    return " OR ".join(NAMES.get(item, item) for item in found) or "unknown"


def parts_of(licence: str) -> list[str]:
    """The single licences that an expression names."""
    return [part.strip("() ") for part in re.split(r"\bAND\b|\bOR\b", licence)]


def needs_a_word(licence: str) -> bool:
    """Whether a licence asks for more than its notice, or is not known."""
    return not all(part in PERMISSIVE for part in parts_of(licence))


def requirements(name: str, extras: Iterable[str]) -> set[tuple[str, frozenset[str]]]:
    """Installed packages that a package asks for on this machine, with the extras it asks of."""
    found = set()
    for line in metadata.distribution(name).requires or ():
        wanted = Requirement(line)
        marks = wanted.marker is None or any(
            wanted.marker.evaluate({"extra": extra}) for extra in ("", *extras)
        )
        if marks and _is_installed(wanted.name):
            found.add((normal(wanted.name), frozenset(wanted.extras)))
    return found


def collect() -> list[Licence]:
    """Every installed dependency, direct ones of each extra first."""
    lines: dict[str, Licence] = {}
    for extra in EXTRAS:
        label = extra or "runtime"
        direct = {name for name, _ in requirements(OURS, [extra] if extra else [])}
        waiting, seen = [(OURS, frozenset([extra] if extra else []))], set()
        while waiting:
            name, extras = waiting.pop()
            if (name, extras) in seen:
                continue
            seen.add((name, extras))
            waiting += requirements(name, extras)
            if name != OURS and name not in lines:
                lines[name] = _line(name, label, direct=name in direct)
    order = [extra or "runtime" for extra in EXTRAS]
    return sorted(lines.values(), key=lambda x: (order.index(x.brought_by), not x.direct, x.name))


def render(lines: Iterable[Licence]) -> str:
    """The page."""
    rows = ["| package | version | licence | brought by |", "| --- | --- | --- | --- |"]
    for item in lines:
        how = item.brought_by if item.direct else f"{item.brought_by}, indirectly"
        rows.append(f"| {item.name} | {item.version} | {item.licence} | {how} |")
    words = [f"- **{name}**: {text}" for name, text in EXPLAINED.items()]
    return HEAD + "\n".join([*rows, "", "Licences that are not simply permissive:", "", *words, ""])


def _line(name: str, label: str, *, direct: bool) -> Licence:
    info = metadata.metadata(name)
    fields = {key: info[key] for key in ("License-Expression", "License") if key in info}
    licence = licence_of(fields, info.get_all("Classifier") or ())
    version = info["Version"].partition("+")[0]
    return Licence(name, version, licence, label, direct)


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    page = render(collect())
    if "--write" in sys.argv:
        PAGE.write_text(page, "utf-8")
    else:
        print(page)
