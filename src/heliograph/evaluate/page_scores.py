"""The numbers of a report as HTML: the table of scores, sets against true clips, and curves over time."""

from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby

from heliograph.evaluate.described import Described
from heliograph.evaluate.drift import portion
from heliograph.evaluate.every import EVERY
from heliograph.evaluate.heliosbench import NETWORKS, rate_throughput
from heliograph.evaluate.plots import COLOURS, curve_plot, number, spread_plot
from heliograph.evaluate.report import Report
from heliograph.evaluate.statistics import Interval
from heliograph.evaluate.summary import Compared, Folder, reasons

GROUPS = {
    "truth": "Ground truth",
    "networks": "By networks",
    "motion": "Motion",
    "faults": "Faults over time",
    "picture": "Picture",
    "drift": "Drift from the first 15 % to the last",
    "seams": "Seams between chunks",
}
"""Headings of the table of scores."""

ARROWS = {"low": "↓ low is good", "high": "↑ high is good", "": ""}


def scores(report: Report) -> str:
    """The table: a row for each metric, a column for each folder and each comparison with the first."""
    compared: dict[str, dict[int, Compared]] = {}
    for one in report.comparison:
        compared.setdefault(one.metric.name, {})[one.other] = one
    others = sorted({one.other for one in report.comparison})
    heads = "".join(f"<th>{escape(folder.name)}</th>" for folder in report.folders)
    first = escape(report.folders[0].name)
    for other in others:
        difference = "difference" if len(others) == 1 else f"{escape(report.folders[other].name)} − {first}"
        heads += f"<th>{difference}</th>"
    rows = []
    for group, members in groupby(EVERY, lambda metric: metric.group):
        shown = [metric for metric in members if _is_known(metric, report)]
        if shown or group == "networks":
            rows.append(f'<tr class="group"><th>{GROUPS[group]}</th>{heads}</tr>')
        if not shown and group == "networks":
            rows.append(_no_networks(1 + len(report.folders) + len(others)))
        rows += [_row(metric, report, compared.get(metric.name, {}), others) for metric in shown]
    return f'{_note(report)}<div class="scroll"><table>{"".join(rows)}</table></div>'


def as_sets(report: Report) -> str:
    """What is not a mean over videos: the distance of whole folders from true clips, and the speed of making them."""
    distances = "".join(_distance_row(folder) for folder in report.folders)
    speeds = "".join(_speed(folder) for folder in report.folders)
    if distances:
        distances = (
            "<p>Fréchet distance from true clips of the same prompts, beside that of true clips from true clips; a "
            "distance that most of those reach cannot be told from none. Features are 30 hand-made numbers for each 33 "
            "frames: light, colour, edges and change in six fields of the picture. They do not know shapes.</p><table>"
            f"<tr><th></th><th>distance</th><th>floor</th><th>95 % of floors below</th></tr>{distances}</table>"
        )
    return f"<h2>As a set</h2>{distances}{speeds}" if distances or speeds else ""


def _distance_row(folder: Folder) -> str:
    found = folder.distance
    if found is None:
        return ""
    numbers = "".join(f"<td>{number(value)}</td>" for value in (found.value, found.floor, found.floor_high))
    return f"<tr><td>{escape(folder.name)}</td>{numbers}</tr>"


def _speed(folder: Folder) -> str:
    if folder.made is None or folder.made.frames_per_second is None:
        return ""
    speed = folder.made.frames_per_second
    return (
        f"<p>{escape(folder.name)} was made at {number(speed)} frames/s from prompt to file on this machine; "
        f"HeliosBench's throughput rating of that is {rate_throughput(speed)}.</p>"
    )


def curves(report: Report) -> str:
    """One plot for each metric that has curves."""
    plots = []
    for metric in EVERY:
        groups = [
            [score.curve for one in folder.videos if (score := one.scored.scores.get(metric.name)) and score.curve]
            for folder in report.folders
        ]
        if any(groups):
            unit = f", {escape(metric.unit)}" if metric.unit else ""
            if metric.group == "picture":
                # Videos differ more from each other than from their own beginning, which is what drift is about.
                groups = [[_since_start(curve) for curve in curves] for curves in groups]
                unit = f": change since the first 15 %{unit}"
            plot = curve_plot(metric.name, groups)
            plots.append(f"<figure>{plot}<figcaption>{metric.name}{unit}</figcaption></figure>")
    note = (
        "<p>From the beginning of each video to its end: thin lines are videos, thick ones their mean, bands the "
        "middle 95 % of the mean's bootstrap over videos.</p>"
    )
    return f'{note}<div class="grid">{"".join(plots)}</div>'


def _since_start(curve: Sequence[float]) -> list[float]:
    """How far a curve lies from its mean over the first 15 % of its video."""
    start = sum(curve[: portion(len(curve))]) / portion(len(curve))
    return [value - start for value in curve]


def many(num: int, noun: str) -> str:
    """A number of things."""
    return f"{num} {noun}" if num == 1 else f"{num} {noun}s"


def _is_known(metric: Described, report: Report) -> bool:
    """Whether any video was looked at for it."""
    return any(metric.name in judged.scored.scores for folder in report.folders for judged in folder.videos)


def _no_networks(columns: int) -> str:
    needs = "; ".join(f"{name}: {escape(need)}" for name, need in NETWORKS.items())
    text = f"<small>Each needs a network (--weights, --judge). {needs}.</small>"
    return f'<tr><td colspan="{columns}">not measured{text}</td></tr>'


def _note(report: Report) -> str:
    note = (
        "<p>Means over videos, each a dot; in brackets the middle 95 % of their bootstrap, which says little for fewer "
        "than about ten videos. Of what is right or wrong the brackets are Wilson's interval of a share.</p>"
    )
    if report.comparison:
        num = max(one.test.difference.num for one in report.comparison)
        what = "second minus first" if len(report.folders) == 2 else "minus the first folder"
        note += (
            f"<p>Differences are {what} over {many(num, 'pair')} of the same prompt. p is of a sign-flip "
            "permutation test and, in brackets, made fit for testing so many at once (Holm): judge by that.</p>"
        )
    elif len(report.folders) > 1:
        note += "<p>The folders share no video of the same name or HeliosBench id, so nothing can be paired.</p>"
    return note


def _row(metric: Described, report: Report, compared: Mapping[int, Compared], others: Sequence[int]) -> str:
    every = [value for folder in report.folders for value in folder.values(metric.name)]
    cells = [_cell(metric, *pair, every) for pair in zip(report.folders, COLOURS, strict=False)]
    for other in others:
        one = compared.get(other)
        if one is None:
            cells.append("<td></td>")
            continue
        p = "" if one.test.p is None else f"p {number(one.test.p)} ({number(one.p_together or 0.0)})"
        cells.append(f'<td class="num">{_interval(one.test.difference)}<small>{p}</small></td>')
    unit = f" <small style='display:inline'>{escape(metric.unit)} {ARROWS[metric.better]}</small>"
    return f'<tr><td class="what">{metric.name}{unit}<small>{escape(metric.meaning)}</small></td>{"".join(cells)}</tr>'


def _cell(metric: Described, folder: Folder, colour: str, every: Sequence[float]) -> str:
    mean = folder.mean(metric.name)
    if mean is None:
        why = "; ".join(escape(reason) for reason in reasons(folder, metric.name))
        return f"<td>not measured<small>{why}</small></td>"
    values = folder.values(metric.name)
    plot = spread_plot(values, mean, min(every), max(every), colour)
    left_out = len(folder.videos) - len(values)
    few = f"<small>{left_out} not measured</small>" if left_out else ""
    return f'<td class="num">{_interval(mean)}{few}{plot}</td>'


def _interval(found: Interval) -> str:
    if found.low is None or found.high is None:
        return number(found.mean)
    return f"{number(found.mean)} [{number(found.low)}, {number(found.high)}]"
