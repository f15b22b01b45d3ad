"""A section of the page of evidence: the ideas of the paper left out one by one, from stored results.

`python -m heliograph.embedded arm` writes the results.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from heliograph.evaluate.plots import number
from heliograph.evaluate.statistics import holm, paired_test, share_interval
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

Each arm is stage 2 continued from the same weights for the same {steps} steps of 16 samples with one idea left out,
and sampled as it was trained ({sampled}): {num} videos of {minutes:.1f} minutes and {prompts} short ones, with the
same prompts and seeds for all. A cell of the first table is the mean, then arm minus whole over pairs of videos with
its 95 % bootstrap interval and the p of a sign-flip test (with {num} pairs p is at least {least:.3f}). An arm is short
beside the training before it, which had the idea: it shows what leaving out undoes, and no difference here is not proof
that there would be none from the start.
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
        )
    ]
    rows = [[_short(name), *(_compared(whole, found[name], metric) for metric in DRIFTS)] for name in arms]
    means = ["whole", *(number(_mean(whole["metrics"][metric])) for metric in DRIFTS)]
    lines += _table(["", *DRIFTS], [means, *rows])
    rows = [
        [_short(name), f"{found[name]['seconds_per_chunk']:.2f}", _kept(found[name])]
        + [_share(found[name], attribute) for attribute in SHARES]
        for name in (WHOLE, *arms)
    ]
    lines += [
        "Seconds of one core for a chunk, ends of long videos that show subject, scene, hour and colour as asked",
        "",
    ]
    lines[-2] += " (first, last), and short videos that are right in each attribute:"
    lines += _table(["", "s a chunk", "ends as asked", *SHARES], rows)
    return [*lines, *_table(["the paper says", "here"], [[CLAIMS[name], verdict(whole, found[name])] for name in arms])]


def verdict(whole: Mapping[str, Any], arm: Mapping[str, Any]) -> str:
    """In words, which drifts differ beyond chance once all of them are judged together (Holm)."""
    tests = [paired_test(whole["metrics"][metric], arm["metrics"][metric]) for metric in DRIFTS]
    chances = holm([1.0 if test.p is None else test.p for test in tests])
    clear = [
        f"{metric} {'+' if test.difference.mean > 0 else '−'}{number(abs(test.difference.mean))}"
        for metric, test in zip(DRIFTS, tests, strict=True)
        if test.difference.low is not None and (test.difference.low > 0 or test.difference.high < 0)  # pyright: ignore[reportOptionalOperand]
    ]
    sure = min(chances)
    said = f"interval without zero: {', '.join(clear)}" if clear else "no drift's interval leaves out zero"
    return f"{said}; least p after Holm {sure:.2g}"


def _compared(whole: Mapping[str, Any], arm: Mapping[str, Any], metric: str) -> str:
    test = paired_test(whole["metrics"][metric], arm["metrics"][metric])
    difference = test.difference
    between = "" if difference.low is None else f" [{number(difference.low)}, {number(difference.high)}]"  # pyright: ignore[reportArgumentType]
    sign = "+" if difference.mean > 0 else ""
    chance = "" if test.p is None else f", p {test.p:.2g}"
    return f"{number(_mean(arm['metrics'][metric]))}: {sign}{number(difference.mean)}{between}{chance}"


def _kept(arm: Mapping[str, Any]) -> str:
    ends = [[all(row[end] for row in rows) for rows in zip(*arm["kept"].values(), strict=True)] for end in (0, 1)]
    return ", ".join(f"{sum(end)} of {len(end)}" for end in ends)


def _share(arm: Mapping[str, Any], attribute: str) -> str:
    if attribute not in arm["shares"]:
        return "–"
    count = arm["counts"][attribute]
    found = share_interval(round(arm["shares"][attribute] * count), count)
    assert found.low is not None and found.high is not None
    return f"{100 * found.mean:.0f} % [{100 * found.low:.0f}, {100 * found.high:.0f}]"


def _sampled(arm: Mapping[str, Any]) -> str:
    return f"{','.join(map(str, arm['steps']))} steps, guidance {arm['guidance_scale']:g}"


def _short(name: str) -> str:
    return "whole" if name == WHOLE else name.removeprefix("arm-").replace("-", " ")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [*("| " + " | ".join(cells) + " |" for cells in lines), ""]
