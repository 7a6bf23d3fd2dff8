"""docs/data.md says what the code says."""

from __future__ import annotations

from pathlib import Path

import pytest

from micro_rm.embed.sources.sets import PUBLISHED


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_table_has_variants_counts_licence_and_revision(name: str, repository: Path) -> None:
    source = PUBLISHED[name]
    lines = (repository / "docs" / "data.md").read_text("utf-8").splitlines()
    (line,) = [line for line in lines if line.startswith(f"| `{name}`:")]
    upstream = source.upstream
    assert source.summary in line and ", ".join(source.variants) in line
    assert upstream.licence in line and upstream.terms in line
    assert f"datasets/{upstream.repo}) {upstream.revision[:12]} |" in line
    for part in upstream.parts:
        assert (
            f"{part.name} {part.rows:,}" in line if part.rows else f"{part.name} not known" in line
        )
