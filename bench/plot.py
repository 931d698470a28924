"""Draws what a poll costs each contender as a small SVG, without any library."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape
from typing import Any

WIDTH, LEFT, RIGHT, ROW, TOP = 760, 190, 90, 22, 58
FONT = 'font-family="system-ui, sans-serif" font-size="13"'


def draw(minding: list[dict[str, Any]], note: str) -> str:
    """Bars on a logarithmic scale, a group for each setting; the daemon's own are dark."""
    return "\n".join(_lines(minding, note)) + "\n"


def _lines(minding: list[dict[str, Any]], note: str) -> Iterator[str]:
    groups: dict[tuple[int, bool, int], list[dict[str, Any]]] = {}
    for row in minding:
        groups.setdefault((row["latency_ms"], row["tls"], row["tasks"]), []).append(row)
    costs = [max(1.0, row["cpu_us_per_poll"]) for row in minding]
    low, high = 10 ** math.floor(math.log10(min(costs))), 10 ** math.ceil(math.log10(max(costs) + 1))
    height = TOP + sum(ROW * (len(rows) + 1) + 10 for rows in groups.values()) + 40

    def x(cost: float) -> float:
        part = math.log10(max(cost, low) / low) / math.log10(high / low)
        return LEFT + part * (WIDTH - LEFT - RIGHT)

    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {FONT}>'
    yield f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>'
    yield '<text x="12" y="22" font-size="16" font-weight="600" fill="#111827">Processor time per poll</text>'
    yield '<text x="12" y="42" fill="#4b5563">all in, microseconds, logarithmic; shorter is better</text>'
    tick = low
    while tick <= high:
        at = f"{x(tick):.1f}"
        yield f'<line x1="{at}" x2="{at}" y1="{TOP}" y2="{height - 34}" stroke="#e5e7eb"/>'
        yield f'<text x="{at}" y="{height - 18}" text-anchor="middle" fill="#4b5563">{tick:,}</text>'
        tick *= 10
    y = TOP + 6
    for (latency_ms, tls, tasks), rows in sorted(groups.items()):
        title = f"{tasks:,} tasks, {latency_ms} ms" + (", TLS" if tls else "")
        yield f'<text x="12" y="{y + 14}" font-weight="600" fill="#111827">{title}</text>'
        y += ROW
        for row in sorted(rows, key=lambda row: float(row["cpu_us_per_poll"])):
            cost = row["cpu_us_per_poll"]
            colour = "#1d4ed8" if row["contender"] == "creche" else "#9ca3af"
            end = x(cost)
            name = escape(row["contender"])
            width = max(1.0, end - LEFT)
            yield f'<text x="{LEFT - 8}" y="{y + 14}" text-anchor="end" fill="#111827">{name}</text>'
            yield f'<rect x="{LEFT}" y="{y + 3}" width="{width:.1f}" height="{ROW - 7}" fill="{colour}"/>'
            late = "" if row["polls_per_s"] >= 0.95 * row["due_per_s"] else " (falls behind)"
            yield f'<text x="{end + 6:.1f}" y="{y + 14}" fill="#111827">{cost:,.0f}{late}</text>'
            y += ROW
        y += 10
    yield f'<text x="12" y="{height - 3}" font-size="10" fill="#6b7280">{escape(note)}</text>'
    yield "</svg>"
