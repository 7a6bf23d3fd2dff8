"""The model card of an export: numbers from the run's own files, all text escaped."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...common.redact import escape_controls, redact, redact_all
from ...configs.data import DataConfig, PartConfig
from ...embed.sources import licences
from ...run_dir.files import RECORD
from ..model import Model
from .hf_files import read_json

# Rows per table; the report lists all of them.
MAX_ROWS = 24
UNKNOWN = "unknown: check before you share this"
# Characters with a meaning in Markdown: links, tags, table cells, emphasis.
MARKUP = re.compile(r"([\\`*_{}\[\]<>|#!&~$])")


def render_card(model: Model, facts: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """Render the ``README.md`` of an export.

    Args:
        model: The run.
        facts: Content of the export's ``micro_rm.json``.
        report: The run's ``report.json``, empty if it was not evaluated.

    Returns:
        Markdown with a YAML header.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    record = redact_all(read_json(model.run / RECORD))
    environment = Environment(
        loader=PackageLoader("micro_rm.serve.export", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # Markdown, which the filter md escapes
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
        context_form=redact_all(facts["text"])["context_form"],
    )


def in_line(value: object) -> str:
    r"""Escape text to one inert line of Markdown, without secrets or control characters.

    >>> print(in_line("a|b\n# c"))
    a\|b \# c
    """
    text = escape_controls(redact(" ".join(str(value).split())))
    return MARKUP.sub(r"\\\1", text)


def data_licences(data: Mapping[str, Any]) -> dict[str, str]:
    """Licences of the published data sets that a run used; local files are left out."""
    parts = [PartConfig(**part) for part in data["parts"]]
    config = DataConfig(name=data["name"], source=data["source"], parts=parts)
    return licences(config)


def backbone_licence(directory: Path) -> str | None:
    """The license stated in the backbone's own card, or None."""
    card = directory / "README.md"
    if not card.is_file():
        return None
    # The YAML header stands between the first two lines of dashes.
    parts = card.read_text("utf-8", errors="replace")[:5000].split("---")
    match = re.search(r"^license:\s*(\S.*)$", parts[1], re.MULTILINE) if len(parts) > 2 else None
    return match.group(1).strip() if match else None


def _on_hub(model: Model) -> bool:
    return not Path(model.texts.encoder.config.name).is_dir()


def _backbone(model: Model) -> str:
    """The backbone's name; for a local directory without its parents, which may be private."""
    name = model.texts.encoder.config.name
    return name if _on_hub(model) else Path(name).name


def _methods(report: Mapping[str, Any], exported: str) -> list[dict[str, Any]]:
    """Macro accuracies, the exported method first."""
    rows = [
        {"name": name, "exported": name == exported, **entry["macro"], "summary": entry["summary"]}
        for name, entry in report.get("methods", {}).items()
    ]
    return sorted(rows, key=lambda row: not row["exported"])[:MAX_ROWS]


def _attributes(report: Mapping[str, Any], exported: str) -> list[dict[str, Any]]:
    """Accuracies of the exported method by attribute."""
    entry = report.get("methods", {}).get(exported, {"attributes": {}})
    return [{"name": name, **cell} for name, cell in entry["attributes"].items()][:MAX_ROWS]
