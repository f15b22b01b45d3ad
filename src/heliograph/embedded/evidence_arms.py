"""A section of the page of evidence: the ideas of the paper left out one by one, from stored results.

`python -m heliograph.embedded arm` writes the results.
"""

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from heliograph.embedded.markdown import judged, signed, table
from heliograph.evaluate.plots import number
from heliograph.evaluate.statistics import Interval, holm, paired_test
from heliograph.shapes import CHUNK_FRAMES, FPS

WHOLE = "arm-full"
"""The arm that the others are compared with."""

DRIFTS = ("brightness drift", "contrast drift", "saturation drift", "warmth drift", "sharpness drift", "picture seam")

SHARES = ("scene", "time", "colour", "kind", "size", "count", "direction")

CLAIMS: Mapping[str, str] = {
    "arm-no-corruption": "training on corrupted history prevents drift",
    "arm-no-anchor": "keeping the first frame prevents drift of colour",
    "arm-absolute-positions": "relative positions prevent repetition and breakdown beyond the trained length",
    "arm-no-compression": "compressing the history costs no quality and saves most of its tokens",
    "arm-no-pyramid": "the pyramid costs no quality and saves most of the work",
}
"""What the paper says of the idea that each arm leaves out."""

HEAD = """## The ideas left out, one by one

Each arm is stage 2 continued from the same weights (the teacher as it was before its last 2,420 steps) for the same
{steps} steps of 16 samples with one idea left out, and sampled as it was trained ({sampled}): {num} videos of
{minutes:.1f} minutes and {prompts} short ones, with the same prompts and seeds for all. A cell of the first table is
the mean, then arm minus whole over pairs of videos with its 95 % bootstrap interval and the p of a sign-flip test
(with {num} pairs p is at least {least:.3f}). An arm is short beside the training before it, which had the idea: it
shows what leaving out undoes, and no difference here is not proof that there would be none from the start.
"""


ENDS = """Seconds of one core for a chunk, beside other work; how many long videos begin and end with subject, scene,
hour and colour as asked; and short videos that are right in each attribute:
"""


def section(found: Mapping[str, Any]) -> list[str]:
    """The section as Markdown lines, its heading included; `found` holds the arms by name, `WHOLE` among them."""
    whole, arms = found[WHOLE], [name for name in CLAIMS if name in found]
    num = len(whole["metrics"][DRIFTS[0]])
    lines = [
        HEAD.format(
            steps=whole["trained_steps"],
            sampled="; ".join(f"{_short(name)} {_sampled(found[name])}" for name in (WHOLE, *arms)),
            num=num,
            minutes=whole["num_chunks"] * CHUNK_FRAMES / FPS / 60,
            prompts=max(whole["counts"].values()),
            least=2.0 ** (1 - num),
        ),
        *([f"{whole['note']}\n"] if "note" in whole else []),
    ]
    rows = [[_short(name), *(_compared(whole, found[name], metric) for metric in DRIFTS)] for name in arms]
    means = ["whole", *(number(fmean(whole["metrics"][metric])) for metric in DRIFTS)]
    lines += table(["", *DRIFTS], [means, *rows])
    rows = [
        [_short(name), f"{found[name]['seconds_per_chunk']:.2f}", _kept(found[name])]
        + [judged(found[name], attribute) for attribute in SHARES]
        for name in (WHOLE, *arms)
    ]
    lines += [ENDS, *table(["", "s a chunk", "ends as asked", *SHARES], rows)]
    return [*lines, *table(["the paper says", "here"], [[CLAIMS[name], verdict(whole, found[name])] for name in arms])]


def verdict(whole: Mapping[str, Any], arm: Mapping[str, Any]) -> str:
    """In words, which drifts differ beyond chance once all of them are judged together (Holm)."""
    tests = [paired_test(whole["metrics"][metric], arm["metrics"][metric]) for metric in DRIFTS]
    chances = holm([1.0 if test.p is None else test.p for test in tests])
    clear = [
        f"{metric} {'+' if test.difference.mean > 0 else '−'}{number(abs(test.difference.mean))}"
        for metric, test in zip(DRIFTS, tests, strict=True)
        if _leaves_out_zero(test.difference)
    ]
    said = f"interval without zero: {', '.join(clear)}" if clear else "no drift's interval leaves out zero"
    return f"{said}; least p after Holm {min(chances):.2g}"


def _compared(whole: Mapping[str, Any], arm: Mapping[str, Any], metric: str) -> str:
    test = paired_test(whole["metrics"][metric], arm["metrics"][metric])
    chance = "" if test.p is None else f", p {test.p:.2g}"
    return f"{number(fmean(arm['metrics'][metric]))}: {signed(test.difference)}{chance}"


def _leaves_out_zero(found: Interval) -> bool:
    return found.low is not None and found.high is not None and not found.low <= 0 <= found.high


def _kept(arm: Mapping[str, Any]) -> str:
    ends = [[all(row[end] for row in rows) for rows in zip(*arm["kept"].values(), strict=True)] for end in (0, 1)]
    return ", ".join(f"{sum(end)} of {len(end)}" for end in ends)


def _sampled(arm: Mapping[str, Any]) -> str:
    return f"{','.join(map(str, arm['steps']))} steps, guidance {arm['guidance_scale']:g}"


def _short(name: str) -> str:
    return "whole" if name == WHOLE else name.removeprefix("arm-").replace("-", " ")
