"""Regret is drawn to scale."""

from __future__ import annotations

import re

from micro_rm.display.online import regret_svg


def test_both_regrets_are_drawn_to_scale_and_told_apart_by_dashes() -> None:
    svg = regret_svg([1.0], [0.5])
    lines = re.findall(r'<polyline points="([^"]*)".*?stroke-dasharray="([^"]*)"', svg)
    assert lines == [("52.0,220.0 508.0,130.0", "5 4"), ("52.0,220.0 508.0,40.0", "none")]
    legend = re.findall(r'y2="16".*?stroke-dasharray="([^"]*)"/><text[^>]*>([^<]*)', svg)
    assert legend == [
        ("none", "against the best head"),
        ("5 4", "against the best head or mixture"),
    ]
    assert re.findall(r'text-anchor="end">([0-9.]+)<', svg) == ["0.00", "1.00", "1"]
    assert '<text x="286" y="252" text-anchor="middle">comparisons' in svg
