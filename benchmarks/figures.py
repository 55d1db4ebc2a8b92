"""Figures that have a goal of their own and no peer, and their growth as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FIGURES_HEADER = "| what | measured | goal | met |\n|---|---|---|---|"

WIDTH, HEIGHT, MARGIN = 640, 320, 50
"""Of the picture, in pixels."""


@dataclass(frozen=True)
class Figure:
    """One measured value."""

    name: str
    value: float
    unit: str
    goal: float | None = None
    """The highest acceptable value; None where it is only reported."""

    @property
    def met(self) -> bool:
        return self.goal is None or self.value <= self.goal

    def row(self) -> str:
        """A row of the table that `FIGURES_HEADER` begins."""
        goal = f"{self.goal:g} {self.unit}" if self.goal is not None else "–"
        return f"| {self.name} | {self.value:.3g} {self.unit} | {goal} | {'yes' if self.met else 'NO'} |"


def plot(path: Path, title: str, points: Sequence[tuple[float, float]], axes: tuple[str, str]) -> None:
    """Write points as a line in an SVG file; both axes begin at 0."""
    right, top = max(x for x, _ in points), max(y for _, y in points) or 1.0
    across, up = (WIDTH - 2 * MARGIN) / right, (HEIGHT - 2 * MARGIN) / top
    placed = [(MARGIN + x * across, HEIGHT - MARGIN - y * up) for x, y in points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
    dots = "".join(
        f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3"/><text x="{px - 8:.1f}" y="{py - 8:.1f}" text-anchor="end">'
        f'{y:.2f}</text><text x="{px:.1f}" y="{HEIGHT - MARGIN + 16}" text-anchor="middle">{x:,.0f}</text>'
        for (x, y), (px, py) in zip(points, placed, strict=True)
    )
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" '
        f'font-size="11"><rect width="100%" height="100%" fill="white"/><text x="{WIDTH / 2}" y="20" '
        f'text-anchor="middle" font-size="14">{title}</text><path d="M{MARGIN} {MARGIN}V{HEIGHT - MARGIN}'
        f'H{WIDTH - MARGIN}" fill="none" stroke="black"/><polyline points="{line}" fill="none" stroke="#2563eb" '
        f'stroke-width="2"/><g fill="#111">{dots}</g><text x="{WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle">'
        f'{axes[0]}</text><text x="12" y="{MARGIN - 12}">{axes[1]}</text></svg>\n'
    )
