"""Small plots as SVG text, to stand inside a page: how values are spread, and how they go over time."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from heliograph.evaluate.statistics import SEED, Interval

COLOURS = ("#1f5fa8", "#c2571a", "#3f7d3a", "#8a3a8f", "#8a6d1a", "#4a4f57")
"""Of the folders, in their order."""

STRIP_WIDTH, STRIP_HEIGHT, STRIP_MARGIN = 190, 22, 6
CURVE_WIDTH, CURVE_HEIGHT = 330, 170
LEFT, RIGHT, TOP, BOTTOM = 48, 8, 8, 22
"""Margins of a plot over time, in which its numbers stand."""

BAND_RESAMPLES = 400
"""Bootstrap samples of a band."""

MOST_LINES = 60
"""Videos that are drawn one by one; the mean is always of all."""


def spread_plot(values: Sequence[float], mean: Interval, low: float, high: float, colour: str) -> str:
    """Every value as a dot between `low` and `high`; a line for the mean, a band for its interval."""

    def across(value: float) -> float:
        share = (value - low) / (high - low) if high > low else 0.5
        return STRIP_MARGIN + share * (STRIP_WIDTH - 2 * STRIP_MARGIN)

    middle = STRIP_HEIGHT / 2
    parts = [f'<line x1="0" x2="{STRIP_WIDTH}" y1="{middle}" y2="{middle}" stroke="#dcdcd6"/>']
    if mean.low is not None and mean.high is not None:
        start, width = across(mean.low), max(1.0, across(mean.high) - across(mean.low))
        size = f'width="{width:.1f}" height="{STRIP_HEIGHT - 6}"'
        parts.append(f'<rect x="{start:.1f}" y="3" {size} fill="{colour}" opacity=".18"/>')
    parts += [
        f'<circle cx="{across(value):.1f}" cy="{middle}" r="3" fill="{colour}" opacity=".45"/>' for value in values
    ]
    at = across(mean.mean)
    parts.append(
        f'<line x1="{at:.1f}" x2="{at:.1f}" y1="2" y2="{STRIP_HEIGHT - 2}" stroke="{colour}" stroke-width="2"/>'
    )
    label = f"{len(values)} videos, mean {number(mean.mean)}, from {number(min(values))} to {number(max(values))}"
    return _svg(STRIP_WIDTH, STRIP_HEIGHT, label, parts)


def curve_plot(label: str, groups: Sequence[Sequence[Sequence[float]]]) -> str:
    """Curves of each folder from the beginning of the videos to their end.

    Thin for a video, thick for the mean over videos, and a band for the mean's 95 % bootstrap.
    """
    flat = [value for curves in groups for curve in curves for value in curve]
    low, high = _rounded_range(min(flat), max(flat))

    def points(curve: Sequence[float], *, back: bool = False) -> str:
        step = (CURVE_WIDTH - LEFT - RIGHT) / max(1, len(curve) - 1)
        tall = CURVE_HEIGHT - TOP - BOTTOM
        places = [
            f"{LEFT + index * step:.1f},{TOP + tall * (high - value) / (high - low):.1f}"
            for index, value in enumerate(curve)
        ]
        return " ".join(reversed(places) if back else places)

    def line(curve: Sequence[float], style: str) -> str:
        return f'<polyline points="{points(curve)}" fill="none" {style}/>'

    parts = _axes(low, high)
    for curves, colour in zip(groups, COLOURS, strict=False):
        parts += [line(one, f'stroke="{colour}" stroke-width="1" opacity=".3"') for one in curves[:MOST_LINES]]
    for curves, colour in zip(groups, COLOURS, strict=False):
        if len(curves) > 1:
            lows, highs = mean_band(curves)
            parts.append(f'<polygon points="{points(lows)} {points(highs, back=True)}" fill="{colour}" opacity=".18"/>')
        if len(curves) > 0:
            parts.append(line(mean_curve(curves), f'stroke="{colour}" stroke-width="2.5"'))
    return _svg(CURVE_WIDTH, CURVE_HEIGHT, f"{label} over time", parts)


def mean_curve(curves: Sequence[Sequence[float]]) -> list[float]:
    """The mean at the same share of each video, at as many points as the longest curve has."""
    return list(_at_shares(curves).mean(axis=0))


def mean_band(curves: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    """The middle 95 % of the mean curve's bootstrap over videos, at each point of `mean_curve`."""
    rows = _at_shares(curves)
    draws = np.random.default_rng(SEED).integers(0, len(rows), (BAND_RESAMPLES, len(rows)))
    low, high = np.quantile(np.stack([rows[draw].mean(axis=0) for draw in draws]), [0.025, 0.975], axis=0)
    return list(low), list(high)


def _at_shares(curves: Sequence[Sequence[float]]) -> Float[np.ndarray, "videos points"]:
    """Each curve at the same shares of its video."""
    num = max(len(curve) for curve in curves)
    at = np.linspace(0, 1, num) if num > 1 else np.zeros(1)
    return np.stack([np.interp(at, np.linspace(0, 1, len(c)) if len(c) > 1 else [0.0], c) for c in curves])


def number(value: float) -> str:
    """A number as a reader needs it: three significant digits, none that are zero, no exponent unless it is tiny."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:.0f}"
    if abs(value) < 0.00005:
        return f"{value:.0e}"
    text = f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _rounded_range(low: float, high: float) -> tuple[float, float]:
    """A range a little wider than the values, never empty: what hardly changes must not look as if it did."""
    least = 0.02 * max(abs(low), abs(high), 0.5)
    extra = max(0.05 * (high - low), (least - (high - low)) / 2)
    return low - extra, high + extra


def _axes(low: float, high: float) -> list[str]:
    """A frame, three numbers beside it, and the ends of the videos below."""
    right, bottom = CURVE_WIDTH - RIGHT, CURVE_HEIGHT - BOTTOM
    parts = []
    for share in (0.0, 0.5, 1.0):
        y = TOP + (bottom - TOP) * (1 - share)
        value = low + share * (high - low)
        parts.append(f'<line x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e4e4de"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number(value)}</text>')
    parts.append(f'<text x="{LEFT}" y="{CURVE_HEIGHT - 6}">start</text>')
    parts.append(f'<text x="{right}" y="{CURVE_HEIGHT - 6}" text-anchor="end">end</text>')
    return parts


def _svg(width: int, height: int, label: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-label="{label}">'
        f"{''.join(parts)}</svg>"
    )
