"""The page of evidence, written from stored results alone: `docs/evidence.md` from the files in `docs/evidence/`.

embedded.json    shares of held-out prompts that were followed, by model and sampling
stages.json      the same after each phase of stage 3, at many and few steps
bars.json        long videos beside true clips; starts and prompt changes; what the past tells each level
arms.json        the ideas of the paper left out one by one
checkers.json    how far the checkers can be trusted
quality.json     the same videos judged by `heliograph evaluate`, and with their chunks matched
*.png            contact sheets, written when the videos were made
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from heliograph.embedded.endurance import GLANCE_FRAMES, PROPERTIES
from heliograph.embedded.evidence_arms import sections as arms_sections
from heliograph.embedded.evidence_quality import section
from heliograph.embedded.levels import PASTS
from heliograph.embedded.markdown import figure, judged, percent, table
from heliograph.embedded.steering import STARTS, STAYS, TRUE
from heliograph.errors import UserError
from heliograph.evaluate.drift import CURVE_POINTS, scattered_drift
from heliograph.evaluate.plots import curve_plot, number
from heliograph.evaluate.statistics import interval
from heliograph.shapes import FPS

Results = Mapping[str, Any]

COLUMNS = ("scene", "time", "colour", "kind", "direction", "pan", "count", "size", "motion", "speed")
"""Attributes in the order of the tables."""

NOTE = "note"
"""Name of what a file of results says of itself, in words: how the models in it were trained."""

HEAD = """# Evidence

Written by `python -m heliograph.embedded evidence` from the files in `docs/evidence`; not edited by hand. Brackets
hold 95 % intervals: of means the bootstrap over videos, of shares Wilson's.
"""

FOLLOWING = """## Prompts are followed

Prompts are held-out combinations of the mix that the model was trained on (mostly one subject, medium or big), in
held-out words and phrases, every attribute named. A cell is the share of prompts for which plain code
(`heliograph.evaluate.truth`) read the attribute back from the video as it was asked. `ceiling` is true clips of the
world put through the model's autoencoder and read in the same way: what no model above this autoencoder can be
expected to beat. Chance is 20 % for the scene, 33 % for the hour, 12.5 % for the colour, 50 % for the direction.
"""

STAGES = """## Few steps: before and after each phase of stage 3

The same held-out prompts, {num} of them; names are the phase and the steps on each level. {note}
"""

ENDURANCE = """## Long videos

{num} videos of {minutes:.1f} minutes, and true clips of the world of the same content and length. Drift is how far
a property of the last 15 % lies from that of the first 15 %, in levels of 255; the bar is twice that of true clips.
"""

SCATTER = """How much of that is the picture's usual coming and going: the drift to expect of the same stretches of
{seconds:.0f} s in random order (`heliograph.evaluate.drift.scattered_drift`), mean over videos. What is not above it
goes nowhere: the two ends differ as any two parts of the video do.
"""

KEPT_TEXT = """Shares of videos that show what was asked, read back from {seconds} s at a time: at the beginning, at
{num} moments evenly over the whole length (with 95 % intervals over videos), and at the end. A subject that is away
counts as missing.
"""

LEVELS = """## What the past tells each level

Velocities of the undistilled model for the fourth chunk of {num} held-out clips, at {points} points along the line
of each level, coarse to fine: mean squared error near subjects and elsewhere. Remembered are the anchor and, of the
latent frames before the chunk, none, the newest (short tier), three (with the middle tier) or all 19 (with the long
one); for `nothing` not even the anchor. Noise hides detail, so no model could reach zero.
"""

STEERING = """## What is given is kept, what is changed changes

Videos that start from the first frame, or the first {given} frames, of a true clip, {seconds} s later, and the true
clips themselves, read at the same time; and videos whose prompt changes in one attribute after three chunks, read from
the fourth chunk after the change on. Where the new scene is no place for the old subject, another one is asked for.
"""

CHECKERS = """## The checkers

Shares of true clips of the whole world (every count, size and motion, 99 frames) that the checkers read right, as
rendered and damaged: white noise of deviation 12, a Gaussian blur of 1 % of the height, nine tenths of the light,
JPEG of quality 40. A score above is only as good as the first row.
"""


def write_evidence(folder: Path, page: Path) -> None:
    """Write the page and its plots anew.

    Raises:
        UserError: there are no results.
    """
    parts: Sequence[tuple[str, Callable[[Results, Path], list[str]]]] = (
        ("embedded.json", _following),
        ("stages.json", _stages),
        ("bars.json", _bars),
        ("arms.json", lambda found, _: arms_sections(found)),
        ("checkers.json", _checkers),
        ("quality.json", lambda found, _: ["", section(found)]),
    )
    if not any((folder / name).exists() for name, _ in parts):
        raise UserError(f"{folder} holds no results; run the scoring phase first")
    lines = [HEAD]
    for name, write in parts:
        if (folder / name).exists():
            lines += write(_read(folder / name), folder)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _read(file: Path) -> Results:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}); measure again") from error


def _following(entries: Results, folder: Path) -> list[str]:
    rows = [
        [name, str(entry["plan"]["num_chunks"]), f"{entry['seconds_per_chunk']:.2f}"]
        + [judged(entry, column) for column in COLUMNS]
        for name, entry in entries.items()
    ]
    sheet = _picture(folder / "sheet.png", "three frames of each of the first videos, as shipped", folder)
    return [FOLLOWING, *table(["videos", "chunks", "s a chunk", *COLUMNS], rows), *sheet]


def _stages(results: Results, folder: Path) -> list[str]:
    entries = {name: entry for name, entry in results.items() if name != NOTE}
    rows = [[name, *(judged(entry, column) for column in COLUMNS)] for name, entry in entries.items()]
    num = max(entry["plan"]["num_prompts"] for entry in entries.values())
    sheet = _picture(folder / "stages.png", "the first videos of each phase", folder)
    return [STAGES.format(num=num, note=results.get(NOTE, "")), *table(["phase, steps", *COLUMNS], rows), *sheet]


def _bars(results: Results, folder: Path) -> list[str]:
    lines: list[str] = []
    if "endurance" in results:
        lines += _endurance(results["endurance"], folder)
    if "steering" in results:
        lines += _steering(results["steering"])
    if "levels" in results:
        lines += _levels(results["levels"])
    return lines


def _endurance(found: Results, folder: Path) -> list[str]:
    model, world = found["model"]["metrics"], found["world"]["metrics"]
    rows = []
    for name in model:
        ratio = model[name]["mean"] / world[name]["mean"] if world[name]["mean"] else None
        rows.append([name, figure(model[name]), figure(world[name]), "–" if ratio is None else f"{ratio:.2f}"])
    kept = [
        [name, *(cell for side in ("model", "world") for cell in _held(found[side], name))]
        for name in found["model"]["kept"]
    ]
    lines = [ENDURANCE.format(num=found["model"]["num"], minutes=found["seconds"] / 60)]
    lines += [_about(found), *table(["", "model", "true clips", "ratio"], rows)]
    lines += [SCATTER.format(seconds=found["seconds"] / CURVE_POINTS)]
    lines += table(["drift", "model", "at random", "true clips", "at random"], _scatter(found))
    lines += [KEPT_TEXT.format(seconds=GLANCE_FRAMES // FPS, num=len(next(iter(found["model"]["kept"].values()))))]
    lines += table(["", *(f"{side}, {when}" for side in ("model", "true") for when in ("first", "all", "last"))], kept)
    lines += _picture(folder / "film.png", "each long video over its length", folder)
    for name in PROPERTIES:
        curves = [[each[name] for each in found[side]["curves"]] for side in ("model", "world")]
        (folder / f"drift-{name}.svg").write_text(_standalone(curve_plot(name, curves)), encoding="utf-8")
    plots = " ".join(f"![{name} over time](evidence/drift-{name}.svg)" for name in PROPERTIES)
    return [*lines, f"Over time, the model blue, true clips orange: {', '.join(PROPERTIES)}.", "", plots, ""]


def _held(side: Results, name: str) -> tuple[str, str, str]:
    """How often an attribute is as asked at the beginning, throughout with its interval over videos, and at the end."""
    kept, throughout = side["kept"][name], interval(side["kept_by_video"][name])
    return _share(kept[0]), percent(vars(throughout)), _share(kept[-1])


def _scatter(found: Results) -> list[list[str]]:
    rows = []
    for name in PROPERTIES:
        row = [name]
        for side in ("model", "world"):
            curves = [np.array(each[name]) for each in found[side]["curves"]]
            scattered = fmean(scattered_drift(stretches) for stretches in curves)
            row += [number(found[side]["metrics"][f"{name} drift"]["mean"]), number(scattered)]
        rows.append(row)
    return rows


def _steering(found: Results) -> list[str]:
    rows = [
        [
            name,
            str(found[name]["num"]),
            *(percent(found[name][attribute]) for attribute in ("scene", "kind", "colour")),
        ]
        for start in STARTS
        for name in (start, TRUE + start)
    ]
    changes = [
        [
            name,
            str(found[name]["num"]),
            STAYS[name],
            *(percent(found[name][each]) for each in ("before", "after", "kept", "no cut")),
        ]
        for name in STAYS
    ]
    return [
        STEERING.format(given=66, seconds=10),
        _about(found),
        *table(["start", "videos", "scene kept", "subject kept", "colour kept"], rows),
        *table(["change", "videos", "to be kept", "right before", "right after", "kept", "no cut"], changes),
    ]


def _levels(found: Results) -> list[str]:
    head = ["remembered"]
    for level in range(len(found["errors"]["all"])):
        head += [f"level {level}, near", "elsewhere"]
    rows = []
    for name in PASTS:
        row = [name]
        for level in found["errors"][name]:
            row += [figure(level["near"]), figure(level["elsewhere"])]
        rows.append(row)
    lines = LEVELS.format(num=found["num"], points=found["num_points"])
    return [lines, f"Weights `{found['weights']}`, commit `{found['commit']}`.\n", *table(head, rows)]


def _checkers(results: Results, _folder: Path) -> list[str]:
    rows = []
    for size, damages in results.items():
        for damage in sorted(damages, key=lambda name: name != "clean"):
            read = damages[damage]
            cells = [_share(read[name]["share"], 1) if name in read else "–" for name in COLUMNS]
            rows.append([size, damage, str(max(each["num"] for each in read.values())), *cells])
    return [CHECKERS, *table(["size", "", "clips", *COLUMNS], rows)]


def _about(found: Results) -> str:
    steps = ",".join(map(str, found["steps"]))
    sampled = f"steps {steps}, guidance {found['guidance_scale']:g}"
    if found.get("guided_levels") is not None:
        sampled += f" on {found['guided_levels']} of the levels, coarse first"
    return f"Weights `{found['weights']}`, {sampled}, commit `{found['commit']}`.\n"


def _share(value: float, digits: int = 0) -> str:
    return f"{100 * value:.{digits}f} %"


def _picture(file: Path, caption: str, folder: Path) -> list[str]:
    return [f"![{caption}]({folder.name}/{file.name})", ""] if file.exists() else []


def _standalone(svg: str) -> str:
    """An SVG that a page can show as a picture: with its namespace, a background, and a font."""
    head = '<svg xmlns="http://www.w3.org/2000/svg" style="background:#fff;font:11px sans-serif" '
    return svg.replace("<svg ", head, 1) + "\n"
