"""Cells and tables of the page of evidence, in Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from heliograph.evaluate.plots import number
from heliograph.evaluate.statistics import Interval, share_interval


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table, and an empty one after it."""
    lines = [head, ["---"] * len(head), *rows]
    return [*("| " + " | ".join(cells) + " |" for cells in lines), ""]


def judged(scores: Mapping[str, Any], attribute: str) -> str:
    """A share of prompts in percent and its interval, from stored scores; a dash where none could be judged."""
    found = judged_share(scores, attribute)
    return "–" if found is None else percent(vars(found))


def judged_share(scores: Mapping[str, Any], attribute: str) -> Interval | None:
    """A share of prompts with its interval, from stored scores; None where none could be judged."""
    if attribute not in scores["shares"]:
        return None
    count = scores["counts"][attribute]
    return share_interval(round(scores["shares"][attribute] * count), count)


def percent(found: Mapping[str, Any]) -> str:
    """A share in percent, with its interval where it has one."""
    between = "" if found["low"] is None else f" [{100 * found['low']:.0f}, {100 * found['high']:.0f}]"
    return f"{100 * found['mean']:.0f} %{between}"


def figure(found: Mapping[str, Any]) -> str:
    """A mean with its interval where it has one."""
    between = "" if found["low"] is None else f" [{number(found['low'])}, {number(found['high'])}]"
    return number(found["mean"]) + between


def signed(difference: Interval) -> str:
    """The same of a difference, with its sign."""
    return ("+" if difference.mean > 0 else "") + figure(vars(difference))
