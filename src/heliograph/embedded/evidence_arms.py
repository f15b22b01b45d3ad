"""A section of the page of evidence: the ideas of the paper left out one by one, from stored results.

`python -m heliograph.embedded arm` writes the results.
"""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from heliograph.embedded.markdown import judged, judged_share, signed, table
from heliograph.evaluate.plots import number
from heliograph.evaluate.statistics import Interval, holm, paired_test
from heliograph.shapes import CHUNK_FRAMES, FPS

DRIFTS = ("brightness drift", "contrast drift", "saturation drift", "warmth drift", "sharpness drift", "picture seam")

PAGE_WIDTH = 118
"""Characters of a line of running text, at most."""

SHARES = ("scene", "time", "colour", "kind", "size", "count", "direction")


@dataclass(frozen=True)
class Family:
    """Arms that are compared with one another.

    Attributes:
        whole: name of the arm that leaves nothing out; those of the others begin alike.
        title: heading of the section.
        training: what all arms were trained from, and for how long; `{steps}` stands for the number of steps.
        caution: what the comparison cannot show.
        claims: what the paper says of the idea that each arm leaves out.
    """

    whole: str
    title: str
    training: str
    caution: str
    claims: Mapping[str, str]

    def short(self, name: str) -> str:
        """Name of an arm in the tables."""
        return "whole" if name == self.whole else name.partition("-")[2].replace("-", " ")


MEMORY = Family(
    "arm-full",
    "The ideas left out, one by one",
    "Each arm is stage 2 continued from the same weights (the shipped teacher 8,592 steps earlier, with cells of 16 "
    "pixels) for the same {steps} steps of 16 samples with one idea left out",
    "An arm is short beside the training before it, which had the idea: it shows what leaving out undoes, and no "
    "difference here is not proof that there would be none from the start.",
    {
        "arm-no-corruption": "training on corrupted history prevents drift",
        "arm-no-anchor": "keeping the first frame prevents drift of colour",
        "arm-absolute-positions": "relative positions prevent repetition and breakdown beyond the trained length",
        "arm-no-compression": "compressing the history costs no quality and saves most of its tokens",
        "arm-no-pyramid": "the pyramid costs no quality and saves most of the work",
    },
)
"""Ideas of stages 1 and 2."""

DISTILLATION = Family(
    "distil-full",
    "The ideas of stage 3 left out, one by one",
    "Each arm is distribution matching for the same {steps} steps of 16 samples (one in five updates the student), "
    "with the same teacher, and one idea left out; all but the one without ODE regression begin where that ended",
    "The paper takes 2,250 steps. The arm without ODE regression got nothing instead of its 600 steps of 8.",
    {
        "distil-no-ode": "ODE regression first gives distribution matching a start that it needs",
        "distil-no-gan": "without the adversarial term videos look less natural",
        "distil-uniform-times": "without noise levels that go from coarse to fine training does not converge",
    },
)
"""Ideas of stage 3."""

HEAD = """{training}. Each is sampled as it was trained ({sampled}): {num} videos of {minutes:.1f} minutes and {prompts}
short ones, with the same prompts and seeds for all. A cell of the first table is the mean, then arm minus whole over
pairs of videos with its 95 % bootstrap interval and the p of a sign-flip test (with {num} pairs p is at least
{least:.3f}). {caution}"""


ENDS = """Seconds of one core for a chunk, beside other work; how many long videos begin and end with subject, scene,
hour and colour as asked; and short videos that are right in each attribute:
"""


def sections(found: Mapping[str, Any]) -> list[str]:
    """Every family of which the arm that leaves nothing out was measured; `found` holds the arms by name."""
    return [line for family in (MEMORY, DISTILLATION) if family.whole in found for line in section(family, found)]


def section(family: Family, found: Mapping[str, Any]) -> list[str]:
    """The section of a family as Markdown lines, its heading included."""
    whole, arms = found[family.whole], [name for name in family.claims if name in found]
    num, steps = len(whole["metrics"][DRIFTS[0]]), whole["trained_steps"]
    about = HEAD.format(
        training=family.training.format(steps=steps),
        caution=family.caution,
        sampled="; ".join(f"{family.short(name)} {_sampled(found[name])}" for name in (family.whole, *arms)),
        num=num,
        minutes=whole["num_chunks"] * CHUNK_FRAMES / FPS / 60,
        prompts=max(whole["counts"].values()),
        least=2.0 ** (1 - num),
    )
    lines = [f"## {family.title}\n", f"{textwrap.fill(about, PAGE_WIDTH)}\n"]
    lines += [f"{whole['note']}\n"] if "note" in whole else []
    rows = [[family.short(name), *(_compared(whole, found[name], metric) for metric in DRIFTS)] for name in arms]
    means = ["whole", *(number(fmean(whole["metrics"][metric])) for metric in DRIFTS)]
    lines += table(["", *DRIFTS], [means, *rows])
    rows = [
        [family.short(name), f"{found[name]['seconds_per_chunk']:.2f}", _kept(found[name])]
        + [judged(found[name], attribute) for attribute in SHARES]
        for name in (family.whole, *arms)
    ]
    lines += [ENDS, *table(["", "s a chunk", "ends as asked", *SHARES], rows)]
    said = [[family.claims[name], verdict(whole, found[name])] for name in arms]
    return [*lines, *table(["the paper says", "here"], said)]


def verdict(whole: Mapping[str, Any], arm: Mapping[str, Any]) -> str:
    """In words, which drifts differ beyond chance once all are judged together (Holm), and which shares do."""
    tests = [paired_test(whole["metrics"][metric], arm["metrics"][metric]) for metric in DRIFTS]
    chances = holm([1.0 if test.p is None else test.p for test in tests])
    clear = [
        f"{metric} {'+' if test.difference.mean > 0 else '−'}{number(abs(test.difference.mean))}"
        for metric, test in zip(DRIFTS, tests, strict=True)
        if _leaves_out_zero(test.difference)
    ]
    said = f"interval without zero: {', '.join(clear)}" if clear else "no drift's interval leaves out zero"
    apart = [
        f"{attribute} {100 * whole['shares'][attribute]:.0f} to {100 * arm['shares'][attribute]:.0f} %"
        for attribute in SHARES
        if _lie_apart(judged_share(whole, attribute), judged_share(arm, attribute))
    ]
    shares = f"; shares whose intervals lie apart: {', '.join(apart)}" if apart else ""
    return f"{said}; least p after Holm {min(chances):.2g}{shares}"


def _compared(whole: Mapping[str, Any], arm: Mapping[str, Any], metric: str) -> str:
    test = paired_test(whole["metrics"][metric], arm["metrics"][metric])
    chance = "" if test.p is None else f", p {test.p:.2g}"
    return f"{number(fmean(arm['metrics'][metric]))}: {signed(test.difference)}{chance}"


def _leaves_out_zero(found: Interval) -> bool:
    return found.low is not None and found.high is not None and not found.low <= 0 <= found.high


def _lie_apart(one: Interval | None, other: Interval | None) -> bool:
    """Whether two intervals are there and have nothing in common."""
    ends = [(each.low, each.high) for each in (one, other) if each and each.low is not None and each.high is not None]
    return len(ends) == 2 and max(low for low, _ in ends) > min(high for _, high in ends)


def _kept(arm: Mapping[str, Any]) -> str:
    ends = [[all(row[end] for row in rows) for rows in zip(*arm["kept"].values(), strict=True)] for end in (0, -1)]
    return ", ".join(f"{sum(end)} of {len(end)}" for end in ends)


def _sampled(arm: Mapping[str, Any]) -> str:
    return f"{','.join(map(str, arm['steps']))} steps, guidance {arm['guidance_scale']:g}"
