"""Regret of an online learner over a user's comparisons, as a small SVG without any user text."""

from __future__ import annotations

from collections.abc import Sequence

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 520, 260, 52, 12, 40, 40
# Label, colour and dashes of each curve; dashes tell them apart without colour.
STYLES = (
    ("against the best head", "#1d4ed8", ""),
    ("against the best head or mixture", "#6b7280", "5 4"),
)


def regret_svg(head: Sequence[float], mixture: Sequence[float]) -> str:
    """Draw cumulative regret against the best head, and the best head or mixture, in hindsight.

    Args:
        head: Regret against the best single head after each comparison, nats.
        mixture: Regret against the best head or mixture after each comparison, nats.

    Returns:
        A complete ``<svg>`` element.

    >>> regret_svg([0.5, 0.75], [0.5, 1.0]).count("<polyline")
    2
    """
    curves = [[0.0, *head], [0.0, *mixture]]
    low, high = min(map(min, curves)), max(map(max, curves))
    span = (high - low) or 1.0

    def x(comparison: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * comparison / max(1, len(head))

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / span

    def line(curve: list[float], colour: str, dashes: str) -> str:
        points = " ".join(f"{x(n):.1f},{y(value):.1f}" for n, value in enumerate(curve))
        style = f'stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes or "none"}"'
        return f'<polyline points="{points}" fill="none" {style}/>'

    lines = [line(curve, *style) for curve, (_, *style) in zip(curves, STYLES, strict=True)]
    legend = [
        f'<line x1="{x0}" x2="{x0 + 26}" y1="16" y2="16" stroke="{colour}" stroke-width="2" '
        f'stroke-dasharray="{dashes or "none"}"/><text x="{x0 + 32}" y="20">{name}</text>'
        for x0, (name, colour, dashes) in zip((LEFT, LEFT + 190), STYLES, strict=True)
    ]
    marks = [
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}" '
        f'stroke="#e5e7eb"/><text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">'
        f"{value:.2f}</text>"
        for value in _spaced(sorted({low, 0.0, high}), span / 12)
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'font-family="sans-serif" font-size="11"><title>Regret in nats</title>'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>'
        f"{''.join(marks + lines[::-1] + legend)}"
        f'<text x="{LEFT}" y="{HEIGHT - 22}">0</text>'
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 22}" text-anchor="end">{len(head)}</text>'
        f'<text x="{(LEFT + WIDTH) // 2}" y="{HEIGHT - 8}" text-anchor="middle">'
        "comparisons; regret in nats against hindsight</text></svg>"
    )


def _spaced(values: list[float], gap: float) -> list[float]:
    """Drop values closer than ``gap`` to the last one kept, so that their labels do not overlap."""
    kept = values[:1]
    for value in values[1:]:
        if value - kept[-1] >= gap:
            kept.append(value)
    return kept
