"""The report as one HTML file that needs nothing else: no script, no font, no picture from elsewhere."""

import base64
import io
from collections.abc import Iterator
from html import escape
from itertools import groupby
from pathlib import Path

from PIL import Image

from heliograph.errors import MediaError
from heliograph.evaluate.catalogue import METRICS, Metric
from heliograph.evaluate.heliosbench import SIGNED_MOTION, Quirk, Rated, needed
from heliograph.evaluate.plots import COLOURS, curve_plot, number, spread_plot
from heliograph.evaluate.report import Report
from heliograph.evaluate.statistics import Interval
from heliograph.evaluate.summary import Compared, Folder, Worst, heliosbench, reasons, worst_clips
from heliograph.evaluate.videos import pieces
from heliograph.media.stills import FrameSampler, contact_sheet
from heliograph.media.target import write_whole

SHEET_FRAMES, SHEET_COLUMNS = 8, 4
"""Pictures on the contact sheet of a clip."""

GROUPS = {
    "motion": "Motion",
    "faults": "Faults over time",
    "picture": "Picture",
    "drift": "Drift from the first 15 % to the last",
    "seams": "Seams between chunks",
}
"""Headings of the table of scores."""

ARROWS = {"low": "↓ low is good", "high": "↑ high is good", "": ""}

STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 1180px; padding: 24px; font: 15px/1.5 system-ui, sans-serif; color: #23262b;
       background: #fbfbf9; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 20px; margin: 40px 0 8px; }
p { max-width: 75ch; } .faint, figcaption, small { color: #5b6068; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 5px 14px 5px 0; border-bottom: 1px solid #e4e4de; vertical-align: top; }
th { font-weight: 600; } tr.group th { padding-top: 18px; border-bottom: 2px solid #c9c9c2; }
td small { display: block; max-width: 52ch; line-height: 1.35; } td.num { white-space: nowrap; }
td.what { min-width: 250px; } td.num svg { margin-top: 2px; }
.grid { display: flex; flex-wrap: wrap; gap: 20px; } .grid figure { margin: 0; }
svg { display: block; } svg text { font: 11px system-ui, sans-serif; fill: #5b6068; }
.clip { margin: 18px 0 30px; } .clip img { max-width: 100%; display: block; border: 1px solid #e4e4de; }
.key { display: inline-block; width: 12px; height: 12px; border-radius: 50%; margin-right: 6px; }
"""


def write_page(report: Report, path: Path) -> None:
    """Make the page and write it whole; the clips that are shown are decoded once more, one at a time."""
    write_whole(path, page(report).encode("utf-8"))


def page(report: Report) -> str:
    """The whole page."""
    title = " and ".join(escape(folder.name) for folder in report.folders)
    body = "".join(
        [
            f"<h1>Evaluation of {title}</h1>{_counts(report)}",
            f"<h2>Scores</h2>{_scores(report)}",
            f"<h2>Over time</h2>{_curves(report)}",
            *(f"<h2>HeliosBench{_of(report, folder)}</h2>{_bench(folder)}" for folder in report.folders),
            *(f"<h2>Clips, worst first{_of(report, folder)}</h2>{_clips(folder)}" for folder in report.folders),
            _refused(report),
            f"<h2>Settings</h2>{_facts(report)}",
        ]
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Evaluation of {title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>{body}</body></html>\n'
    )


def _counts(report: Report) -> str:
    """What was looked at, a line for each folder; the colours that stand for the folders."""
    lines = []
    for folder, colour in zip(report.folders, COLOURS, strict=False):
        shapes = [judged.scored.shape for judged in folder.videos if judged.scored.shape]
        seconds = sum(shape.num_frames / shape.fps for shape in shapes)
        sizes = sorted({f"{shape.width}×{shape.height}" for shape in shapes})
        unsteady = sum(not shape.is_steady for shape in shapes)
        line = f"{escape(folder.name)}: {_many(len(folder.videos), 'video')}, {seconds:.1f} s, {', '.join(sizes)}"
        line += (
            f"; {_many(unsteady, 'video')} of variable frame rate, looked at as shown at 24 frames/s"
            if unsteady
            else ""
        )
        line += f"; {_many(len(folder.refused), 'video')} could not be read" if folder.refused else ""
        lines.append(f'<div><span class="key" style="background:{colour}"></span>{line}</div>')
    return "".join(lines)


# Scores


def _scores(report: Report) -> str:
    compared = {one.metric.name: one for one in report.comparison}
    heads = "".join(f"<th>{escape(folder.name)}</th>" for folder in report.folders)
    heads += "<th>difference</th><th>p</th>" if compared else ""
    rows = []
    for group, metrics in groupby(METRICS, lambda metric: metric.group):
        rows.append(f'<tr class="group"><th>{GROUPS[group]}</th>{heads}</tr>')
        rows += [_score_row(metric, report, compared.get(metric.name), is_pair=bool(compared)) for metric in metrics]
    note = (
        "<p>Means over videos, each a dot; in brackets the middle 95 % of their bootstrap, which says little for fewer "
    )
    note += "than about ten videos.</p>"
    if compared:
        num = max(one.test.difference.num for one in report.comparison)
        note += (
            f"<p>Differences are second minus first over {_many(num, 'pair')} of the same prompt. p is of a sign-flip "
            "permutation test and, in brackets, made fit for testing so many metrics at once (Holm): judge by that.</p>"
        )
    elif len(report.folders) == 2:
        note += "<p>The folders share no video of the same name or HeliosBench id, so nothing can be paired.</p>"
    return f'{note}<div class="scroll"><table>{"".join(rows)}</table></div>'


def _score_row(metric: Metric, report: Report, compared: Compared | None, *, is_pair: bool) -> str:
    every = [value for folder in report.folders for value in folder.values(metric.name)]
    cells = []
    for folder, colour in zip(report.folders, COLOURS, strict=False):
        mean = folder.mean(metric.name)
        if mean is None:
            why = "; ".join(f"{escape(reason)}" for reason in reasons(folder, metric.name))
            cells.append(f"<td>not measured<small>{why}</small></td>")
            continue
        values = folder.values(metric.name)
        plot = spread_plot(values, mean, min(every), max(every), colour)
        left_out = len(folder.videos) - len(values)
        few = f"<small>{left_out} not measured</small>" if left_out else ""
        cells.append(f'<td class="num">{_interval(mean)}{few}{plot}</td>')
    if compared is not None:
        p = "" if compared.test.p is None else f"{number(compared.test.p)} ({number(compared.p_together or 0.0)})"
        cells.append(f'<td class="num">{_interval(compared.test.difference)}</td><td class="num">{p}</td>')
    elif is_pair:
        cells.append("<td></td><td></td>")
    unit = f" <small style='display:inline'>{escape(metric.unit)} {ARROWS[metric.better]}</small>"
    return f'<tr><td class="what">{metric.name}{unit}<small>{escape(metric.meaning)}</small></td>{"".join(cells)}</tr>'


def _interval(found: Interval) -> str:
    if found.low is None or found.high is None:
        return number(found.mean)
    return f"{number(found.mean)} [{number(found.low)}, {number(found.high)}]"


def _curves(report: Report) -> str:
    """One plot for each metric that has curves."""
    plots = []
    for metric in METRICS:
        groups = [
            [score.curve for one in folder.videos if (score := one.scored.scores.get(metric.name)) and score.curve]
            for folder in report.folders
        ]
        if any(groups):
            unit = f", {escape(metric.unit)}" if metric.unit else ""
            plot = curve_plot(metric.name, groups)
            plots.append(f"<figure>{plot}<figcaption>{metric.name}{unit}</figcaption></figure>")
    note = "<p>From the beginning of each video to its end: thin lines are videos, thick ones their mean.</p>"
    return f'{note}<div class="grid">{"".join(plots)}</div>'


# HeliosBench


def _bench(folder: Folder) -> str:
    reference, corrected = heliosbench(folder)
    rows = "".join(_bench_row(*pair) for pair in zip(reference.rows, corrected.rows, strict=True))
    total = "not stated: metrics are missing" if corrected.total is None else f"{corrected.total:.3f}"
    shipped = "none" if reference.total is None else f"{reference.total:.3f}"
    quirks = "".join(f"<li>{escape(text)}</li>" for text in [SIGNED_MOTION, *(quirk.value for quirk in Quirk)])
    heads = "<th>metric</th><th>raw</th><th>rating</th><th>corrected raw</th><th>rating</th><th>weight</th>"
    return (
        f"<p>Rules for long videos. {reference.weight:.0%} of the weight is measured; the rest needs networks whose "
        f"weights are not here. Total by the reference's script: {shipped} (what is missing counts nothing). "
        f"Corrected total: {total}.</p>"
        f'<div class="scroll"><table><tr>{heads}</tr>{rows}</table></div>'
        f"<details><summary>What the corrected form puts right</summary><ul>{quirks}</ul></details>"
    )


def _bench_row(reference: Rated, corrected: Rated) -> str:
    if reference.raw is None and corrected.raw is None:
        cells = f'<td colspan="4" class="faint">not measured: needs {escape(needed(reference.name))}</td>'
    else:
        cells = "".join(
            f"<td>{'' if row.raw is None else number(row.raw)}</td><td>{row.rating or 'missing'}</td>"
            for row in (reference, corrected)
        )
    return f"<tr><td>{reference.name}</td>{cells}<td>{corrected.weight:.3f}</td></tr>"


# Clips


def _clips(folder: Folder) -> str:
    return "".join(_clip(worst) for worst in worst_clips(folder)) or "<p>None could be read.</p>"


def _clip(worst: Worst) -> str:
    video, shape = worst.judged.video, worst.judged.scored.shape
    size = f" · {shape.num_frames} frames, {shape.width}×{shape.height}, {number(shape.fps)} fps" if shape else ""
    faults = ", ".join(f"{metric.name} {number(value)} {escape(metric.unit)}".strip() for metric, value in worst.faults)
    prompt = f"<p>{escape(video.prompt)}</p>" if video.prompt else ""
    return (
        f'<div class="clip"><b>{escape(video.name)}</b><span class="faint">{size}</span>{prompt}'
        f"<p>{f'Worse than most in: {faults}.' if faults else ''}</p>{_sheet(worst)}</div>"
    )


def _sheet(worst: Worst) -> str:
    """Frames of the clip with their times, as a picture inside the page."""
    shape = worst.judged.scored.shape
    assert shape is not None, "a clip that was scored has a shape"
    sampler = FrameSampler()
    try:
        for frames, _ in pieces(worst.judged.video.path, shape, 0):
            sampler.push(frames)
    except MediaError as error:
        return f"<p>It can no longer be read: {escape(str(error))}</p>"
    frames, numbers = sampler.pick(SHEET_FRAMES)
    picture = Image.fromarray(contact_sheet(frames, [index / shape.fps for index in numbers], SHEET_COLUMNS))
    data = io.BytesIO()
    picture.save(data, format="JPEG", quality=82)
    text = base64.b64encode(data.getvalue()).decode("ascii")
    name = escape(worst.judged.video.name)
    size = f'width="{picture.width}" height="{picture.height}"'
    return f'<img alt="Frames of {name}" {size} src="data:image/jpeg;base64,{text}">'


# The rest


def _refused(report: Report) -> str:
    items = [
        f"<li><b>{escape(one.video.name)}</b>: {escape(one.scored.refusal)}</li>"
        for folder in report.folders
        for one in folder.refused
    ]
    return f"<h2>Could not be read</h2><ul>{''.join(items)}</ul>" if items else ""


def _facts(report: Report) -> str:
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in _settings(report))
    return f"<table>{rows}</table>"


def _settings(report: Report) -> Iterator[tuple[str, str]]:
    yield "frames between chunk borders", str(report.settings.chunk_frames)
    yield "prompts", report.settings.prompts or "beside the videos"
    yield from report.facts.items()


def _of(report: Report, folder: Folder) -> str:
    return f" · {escape(folder.name)}" if len(report.folders) > 1 else ""


def _many(num: int, noun: str) -> str:
    return f"{num} {noun}" if num == 1 else f"{num} {noun}s"
