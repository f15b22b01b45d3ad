"""The report as one HTML file that needs nothing else: no script, no font, no picture from elsewhere."""

import base64
import io
from collections.abc import Iterator
from html import escape
from pathlib import Path

from PIL import Image

from heliograph.errors import MediaError
from heliograph.evaluate.heliosbench import SIGNED_MOTION, Quirk, Rated, needed
from heliograph.evaluate.page_scores import as_sets, curves, many, scores
from heliograph.evaluate.plots import COLOURS, number
from heliograph.evaluate.report import Report
from heliograph.evaluate.summary import Folder, Worst, heliosbench, worst_clips
from heliograph.evaluate.videos import pieces
from heliograph.media.stills import FrameSampler, contact_sheet
from heliograph.media.target import write_whole

SHEET_FRAMES, SHEET_COLUMNS = 8, 4
"""Pictures on the contact sheet of a clip."""

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
td.what { min-width: 250px; } tr.main td { background: #f1f1ec; } td.num svg { margin-top: 2px; }
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
    *first, last = (escape(folder.name) for folder in report.folders)
    title = f"{', '.join(first)} and {last}" if first else last
    body = "".join(
        [
            f"<h1>Evaluation of {title}</h1>{_counts(report)}",
            f"<h2>Scores</h2>{scores(report)}",
            as_sets(report),
            f"<h2>Over time</h2>{curves(report)}",
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
        line = f"{escape(folder.name)}: {many(len(folder.videos), 'video')}, {seconds:.1f} s, {', '.join(sizes)}"
        line += (
            f"; {many(unsteady, 'video')} of variable frame rate, looked at as shown at 24 frames/s" if unsteady else ""
        )
        line += f"; {many(len(folder.refused), 'video')} could not be read" if folder.refused else ""
        lines.append(f'<div><span class="key" style="background:{colour}"></span>{line}</div>')
    return "".join(lines)


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
        f"weights were not given. Total by the reference's script: {shipped} (what is missing counts nothing). "
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
    for title in dict.fromkeys(report.settings.networks.values()):
        names = [name for name, network in report.settings.networks.items() if network == title]
        yield ", ".join(names), title
    for folder in report.folders:
        if folder.made is not None:
            made = folder.made.settings
            yield f"{folder.name} was made by", f"{made.get('model')} ({made.get('fingerprint', '')[:12]})"
            yield (
                f"{folder.name}: settings",
                ", ".join(f"{name} {made[name]}" for name in ("seed", "match_chunks", "dtype", "size") if name in made),
            )
            sampler = made.get("sampler", {})
            yield (
                f"{folder.name}: sampling",
                ", ".join(f"{name} {sampler[name]}" for name in ("steps", "guidance") if name in sampler),
            )
    yield from report.facts.items()


def _of(report: Report, folder: Folder) -> str:
    return f" · {escape(folder.name)}" if len(report.folders) > 1 else ""
