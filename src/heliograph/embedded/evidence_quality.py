"""A section of the page of evidence: the embedded model judged by `heliograph evaluate`, from stored results.

`python -m heliograph.embedded.quality` writes the results.
"""

from collections.abc import Mapping, Sequence
from typing import Any

RESULTS = "docs/evidence/quality.json"

NAMES = ("plain", "matched", "ceiling")
"""Folders of the report: as made, with --match-chunks, and true clips through the autoencoder."""

PROPERTIES = ("brightness", "contrast", "saturation", "warmth", "sharpness", "noise", "motion")

TRUTH = (
    *("prompt following", "identity", "scene right", "time right", "colour right", "kind right", "count right"),
    *("size right", "direction right", "motion right", "speed right", "pan right"),
)

OTHERS = ("motion", "blend smoothness", "flicker", "frozen", "loop", "scene cuts", "sharpness", "noise")


def section(found: Mapping[str, Any]) -> str:
    """The section as Markdown, its heading included, from the contents of `RESULTS`."""
    plan, facts = found["plan"], found["facts"]
    made = found["folders"][NAMES[0]]["made"]
    model = made["settings"]["fingerprint"][:12] if made else "unknown"
    return f"""## Judged by `heliograph evaluate`

{plan["num_prompts"]} held-out prompts, {plan["num_chunks"]} chunks each, model {model}, commit {facts["commit"]}, by
`python -m heliograph.embedded.quality`. `plain` is with `--no-match-chunks`, `matched` with `--match-chunks`, this
model's default, `ceiling` true clips through the model's autoencoder; all are H.264 files, in which every chunk begins
with a key frame. Means over videos with the middle 95 % of their bootstrap (Wilson's interval for what is right or
wrong), and in brackets how many videos have the metric.

### Ground truth

{_table(found, TRUTH, ("plain", "ceiling"))}

Fréchet distance from true clips of the same prompts, in 30 hand-made features (light, colour, edges and change in six
fields of the picture; they do not know shapes), beside that of true clips from true clips:

{_distances(found)}

### Seams and drift, and what `--match-chunks` does to them

`difference` is matched minus plain over pairs of videos; p is of a sign-flip test, made fit for all metrics of the
report (Holm). A seam of 1 is none; below 1 the border jumps less than what is usual inside chunks.

{_compared(found, [f"{name} seam" for name in ("picture", *PROPERTIES)])}

{_compared(found, [f"{name} drift" for name in PROPERTIES])}

{_compared(found, OTHERS)}

{verdict(found)}
"""


def verdict(found: Mapping[str, Any]) -> str:
    """What the tests say of matching, in a sentence or two: counted, not written by hand."""
    tests = {one["metric"]: one for one in found["comparison"]}
    lower, higher = _changed(tests, "seam", -1), _changed(tests, "seam", 1)
    drifts = _changed(tests, "drift", 1)
    blur = tests["sharpness"]
    worse = blur["p_together"] < 0.05 and blur["difference"]["mean"] < 0
    return (
        f"Matching lowers {len(lower)} of 8 seam scores at p < 0.05 ({', '.join(lower) or 'none'}) and raises "
        f"{', '.join(higher) or 'none'}; drifts that it raises at p < 0.05: {', '.join(drifts) or 'none'}; sharpness "
        f"{'falls' if worse else 'does not fall'} at p < 0.05 ({_interval(blur['difference'])} levels/px)."
    )


def _changed(tests: Mapping[str, Any], kind: str, sign: int) -> list[str]:
    """Metrics of a kind that changed this way beyond doubt."""
    return [
        name
        for name, one in tests.items()
        if name.endswith(kind) and one["p_together"] is not None and one["p_together"] < 0.05
        if sign * one["difference"]["mean"] > 0
    ]


def _table(found: Mapping[str, Any], metrics: Sequence[str], folders: Sequence[str]) -> str:
    lines = [f"| metric | {' | '.join(folders)} |", "| --- " * (1 + len(folders)) + "|"]
    for metric in metrics:
        cells = [_score(found["folders"][name]["scores"].get(metric)) for name in folders]
        lines.append(f"| {metric} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _compared(found: Mapping[str, Any], metrics: Sequence[str]) -> str:
    tests = {one["metric"]: one for one in found["comparison"]}
    lines = ["| metric | plain | matched | difference | p | ceiling |", "| --- " * 6 + "|"]
    for metric in metrics:
        scores = [_score(found["folders"][name]["scores"].get(metric)) for name in NAMES]
        one = tests.get(metric)
        change = "–" if one is None else _interval(one["difference"])
        p = "–" if one is None or one["p_together"] is None else _number(one["p_together"])
        lines.append(f"| {metric} | {scores[0]} | {scores[1]} | {change} | {p} | {scores[2]} |")
    return "\n".join(lines)


def _distances(found: Mapping[str, Any]) -> str:
    """The Fréchet distances beside their floors."""
    lines = ["| videos | distance | floor | 95 % of floors below |", "| --- " * 4 + "|"]
    for name in NAMES:
        one = found["folders"][name]["frechet_distance"]
        if one is not None:
            lines.append(
                f"| {name} | {_number(one['value'])} | {_number(one['floor'])} | {_number(one['floor_high'])} |"
            )
    return "\n".join(lines)


def _score(found: Mapping[str, Any] | None) -> str:
    return "–" if found is None else f"{_interval(found)} ({found['num']})"


def _interval(found: Mapping[str, Any]) -> str:
    if found["low"] is None:
        return _number(found["mean"])
    return f"{_number(found['mean'])} [{_number(found['low'])}, {_number(found['high'])}]"


def _number(value: float) -> str:
    """Three significant digits, at most four places."""
    if value == 0:
        return "0"
    if abs(value) < 0.001:
        return f"{value:.0e}"
    return f"{value:.3g}"
