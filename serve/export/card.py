"""Model card of an export. All numbers come from the run's own files; all text is escaped."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...common.redact import escape_controls, redact, redact_all
from ...configs.data import DataConfig, PartConfig
from ...embed.sources import licences
from ...heads.evaluation.rows import ORACLE
from ...heads.methods import load_method
from ...run_dir.files import RECORD
from ..model import Model
from .hf_files import read_json

# Most rows per table.
MAX_ROWS = 24
UNKNOWN = "unknown: check before you share this model"
# Characters with a meaning in Markdown: links, tags, table cells, emphasis and the like.
MARKUP = re.compile(r"([\\`*_{}\[\]<>|#!&~$])")
POOLING = {
    "last": "the hidden state of the last token",
    "mean": "the mean of the hidden states of all tokens",
    "cls": "the hidden state of the first token",
}
BOS = {
    "auto": "One BOS token if the tokenizer or the chat template adds any, otherwise none",
    "one": "Exactly one BOS token",
    "none": "No BOS token",
}


def render_card(model: Model, metadata: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """Render the ``README.md`` of an export.

    Args:
        model: The trained run.
        metadata: Content of the export's ``micro_rm.json``.
        report: Content of the run's ``report.json``; empty if the run was not evaluated.

    Returns:
        Markdown with the YAML header that model hubs read.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    record = redact_all(read_json(model.run / RECORD))
    environment = Environment(
        loader=PackageLoader("micro_rm.serve.export", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # would escape for HTML; the filter md escapes for Markdown
    )
    environment.filters |= {"md": in_line, "percent": lambda share: f"{100 * share:.1f} %"}
    encoder = model.texts.encoder
    exported = str(metadata["method"])
    return environment.get_template("card.md.j2").render(
        metadata=redact_all(metadata),
        report=redact_all(report),
        methods=_method_rows(report, exported),
        attributes=_attribute_rows(report, exported),
        adapted=load_method(exported).stage == "adapt",
        summary=report.get("methods", {}).get(exported, {}).get("summary", ""),
        record=record,
        data=record["config"]["data"],
        licences=data_licences(record["config"]["data"]),
        backbone=_backbone_name(model),
        backbone_licence=backbone_licence(encoder.files.directory),
        identity=encoder.identity,
        pooling=POOLING[encoder.backbone.pooling],
        bos=BOS[encoder.config.bos],
        hub=_on_hub(model),
        unknown=UNKNOWN,
    )


def in_line(value: object) -> str:
    r"""Escape text to one line of inert Markdown, without secrets or control characters.

    >>> print(in_line("a|b\n# c"))
    a\|b \# c
    """
    text = escape_controls(redact(" ".join(str(value).split())))
    return MARKUP.sub(r"\\\1", text)


def data_licences(data: Mapping[str, Any]) -> dict[str, str]:
    """Licences by name of the published data sets in a run's ``data`` section.

    Local files are left out, because their licence is not known.
    """
    parts = [PartConfig(**part) for part in data["parts"]]
    config = DataConfig(name=data["name"], source=data["source"], parts=parts)
    return licences(config)


def backbone_licence(directory: Path) -> str | None:
    """The licence that the backbone's own model card states, or None."""
    card = directory / "README.md"
    if not card.is_file():
        return None
    # The YAML header stands between the first two "---".
    parts = card.read_text("utf-8", errors="replace")[:5000].split("---")
    match = re.search(r"^license:\s*(\S.*)$", parts[1], re.MULTILINE) if len(parts) > 2 else None
    return match.group(1).strip() if match else None


def _on_hub(model: Model) -> bool:
    return not Path(model.texts.encoder.config.name).is_dir()


def _backbone_name(model: Model) -> str:
    """Name of the backbone. Parents of a local directory are left out: they may be private."""
    name = model.texts.encoder.config.name
    return name if _on_hub(model) else Path(name).name


def _method_rows(report: Mapping[str, Any], exported: str) -> list[dict[str, Any]]:
    """Macro accuracies of at most ``MAX_ROWS`` methods, the exported one first."""
    rows = [
        {
            "name": name,
            "exported": name == exported,
            "oracle": name.endswith(ORACLE),
            "given": entry["given"],
            **entry["macro"],
        }
        for name, entry in report.get("methods", {}).items()
    ]
    return sorted(rows, key=lambda row: not row["exported"])[:MAX_ROWS]


def _attribute_rows(report: Mapping[str, Any], exported: str) -> list[dict[str, Any]]:
    """Accuracies of the exported method on at most ``MAX_ROWS`` attributes."""
    entry = report.get("methods", {}).get(exported, {"attributes": {}})
    return [{"name": name, **cell} for name, cell in entry["attributes"].items()][:MAX_ROWS]
