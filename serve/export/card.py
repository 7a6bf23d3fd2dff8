"""The model card of an export: every number from the run's own files, every text made harmless."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...common.redact import escape_controls, redact, redact_all
from ...configs.data import DataConfig, PartConfig
from ...embed.sources import licences
from ...runs.files import RECORD
from ..model import Model
from .hf_files import read_json

# Shown of a list of methods or attributes; the report has all.
LONGEST = 24
UNKNOWN = "unknown: check before you share this"
# What begins a link, a tag, a table cell or an emphasis in Markdown.
MARKUP = re.compile(r"([\\`*_{}\[\]<>|#!&~$])")


def render_card(model: Model, facts: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """README.md of an export, Markdown."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    record = redact_all(read_json(model.run / RECORD))
    environment = Environment(
        loader=PackageLoader("micro_rm.serve.export", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # Markdown: the filter below takes the place of HTML escapes
    )
    environment.filters |= {"md": in_line, "percent": lambda share: f"{100 * share:.1f} %"}
    backbone = model.texts.encoder
    return environment.get_template("card.md.j2").render(
        facts=redact_all(facts),
        report=redact_all(report),
        methods=_methods(report, str(facts["method"])),
        attributes=_attributes(report, str(facts["method"])),
        record=record,
        data=record["config"]["data"],
        licences=data_licences(record["config"]["data"]),
        backbone=_backbone(model),
        backbone_licence=backbone_licence(backbone.files.directory),
        identity=backbone.identity,
        hub=_on_hub(model),
        unknown=UNKNOWN,
        wish=redact_all(facts["text"])["wish"],
    )


def in_line(value: object) -> str:
    """Any text as one harmless line of Markdown: no link, tag, cell, control code or secret."""
    text = escape_controls(redact(" ".join(str(value).split())))
    return MARKUP.sub(r"\\\1", text)


def data_licences(data: Mapping[str, Any]) -> dict[str, str]:
    """Licence of every published data set that a run read; of local files nothing is known."""
    parts = [PartConfig(**part) for part in data["parts"]]
    config = DataConfig(name=data["name"], source=data["source"], parts=parts)
    return licences(config)


def backbone_licence(directory: Path) -> str | None:
    """The licence that the backbone's own card states, None if it states none."""
    card = directory / "README.md"
    if not card.is_file():
        return None
    head = card.read_text("utf-8", errors="replace")[:5000].split("---")
    found = re.search(r"^license:\s*(\S.*)$", head[1], re.MULTILINE) if len(head) > 2 else None
    return found.group(1).strip() if found else None


def _on_hub(model: Model) -> bool:
    return not Path(model.texts.encoder.config.name).is_dir()


def _backbone(model: Model) -> str:
    """The backbone's name; of a local directory only its own."""
    name = model.texts.encoder.config.name
    return name if _on_hub(model) else Path(name).name


def _methods(report: Mapping[str, Any], exported: str) -> list[dict[str, Any]]:
    """Macro accuracies: the exported method and what it is to be compared with."""
    rows = [
        {"name": name, "exported": name == exported, **entry["macro"], "summary": entry["summary"]}
        for name, entry in report.get("methods", {}).items()
    ]
    return sorted(rows, key=lambda row: not row["exported"])[:LONGEST]


def _attributes(report: Mapping[str, Any], exported: str) -> list[dict[str, Any]]:
    entry = report.get("methods", {}).get(exported, {"attributes": {}})
    return [{"name": name, **cell} for name, cell in entry["attributes"].items()][:LONGEST]
