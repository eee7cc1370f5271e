"""badge.svg: which levels an implementation conforms to."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from .levels import format_levels

_CHARACTER_WIDTH = 6.6
_PADDING = 10


def render_badge(corpus: str, levels: Sequence[str]) -> str:
    """An SVG image; ``levels`` are those proven."""
    left, right = f"ternfmt {corpus}", format_levels(levels)
    widths = [round(len(text) * _CHARACTER_WIDTH + 2 * _PADDING) for text in (left, right)]
    total = sum(widths)
    title = escape(f"{left}: {right}")
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" width="{total}" height="20" role="img" aria-label="{title}">
<title>{title}</title>
<clipPath id="r"><rect width="{total}" height="20" rx="3"/></clipPath>
<g clip-path="url(#r)">
<rect width="{widths[0]}" height="20" fill="#444"/>
<rect x="{widths[0]}" width="{widths[1]}" height="20" fill="#1a7f37"/>
</g>
<g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">
<text x="{widths[0] / 2:g}" y="14">{escape(left)}</text>
<text x="{widths[0] + widths[1] / 2:g}" y="14">{escape(right)}</text>
</g>
</svg>
"""
