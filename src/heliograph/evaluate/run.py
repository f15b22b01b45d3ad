"""Score the videos of some folders, made here or not, and write `scores.jsonl`, `report.json` and `report.html`."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from heliograph.errors import MediaError, OutputError, UserError
from heliograph.evaluate.catalogue import BY_NAME
from heliograph.evaluate.frechet import Distance, distance, features
from heliograph.evaluate.make import MakeOptions, made_with, make_videos, making_speed
from heliograph.evaluate.networks.load import NetworkOptions, load_watchers
from heliograph.evaluate.page import write_page
from heliograph.evaluate.report import Report, Settings
from heliograph.evaluate.scores import ScoreFile, Stamp, missing, score_metric
from heliograph.evaluate.series import lookback, read_series
from heliograph.evaluate.summary import Folder, Judged, Made
from heliograph.evaluate.truth_watch import TruthWatcher, small
from heliograph.evaluate.videos import Video, find_videos, pieces, survey
from heliograph.evaluate.wanted import read_wanted
from heliograph.evaluate.watch import Due, Watcher, due_watchers, passing
from heliograph.media.lock import hold_folder
from heliograph.media.target import write_whole

MOST_FOLDERS = 6
"""Folders of one report: as many as have a colour of their own."""

MADE_FOLDER = "videos"
"""Folder below the output of the videos that are made here."""

Say = Callable[[str], None]
"""Takes one line of progress."""


@dataclass(frozen=True)
class EvaluateOptions:
    """What was asked for on the command line.

    Attributes:
        folders: of videos; the others are compared with the first. None where videos are made.
        output: folder of the results.
        prompts: file of prompts, or None to look beside the videos.
        chunk_frames: frames between the borders that seams are sought at.
        make: what to make and judge, instead of folders.
        networks: weights and judge.
    """

    folders: tuple[Path, ...]
    output: Path
    prompts: Path | None
    chunk_frames: int
    make: MakeOptions | None = None
    networks: NetworkOptions = field(default_factory=NetworkOptions)

    def __post_init__(self) -> None:
        if self.make is None and not 1 <= len(self.folders) <= MOST_FOLDERS:
            raise UserError(
                f"{len(self.folders)} folders were given; give 1 to {MOST_FOLDERS}, or --model to make the videos"
            )
        if self.make is not None and self.folders:
            raise UserError("both --model and folders were given; make the videos first, then compare the folders")
        if len({folder.resolve() for folder in self.folders}) < len(self.folders):
            raise UserError("a folder was given twice; give different folders to compare")


def run_evaluate(options: EvaluateOptions, say: Say) -> Report:
    """Make what is to be made, score every video that has no scores yet, and write the report.

    A video that cannot be read is named in it.

    Raises:
        UserError: a folder holds no video, the prompts or weights do not fit, or the output cannot be written.
    """
    found = [find_videos(folder, options.prompts) for folder in options.folders]
    if options.make is not None:
        read_wanted(options.make.prompts)  # a mistake is found before anything is written
    watchers: list[Watcher] = [TruthWatcher(), *load_watchers(options.networks)]
    _make(options.output)
    with hold_folder(options.output):
        places = options.folders
        if options.make is not None:
            places = (options.output / MADE_FOLDER,)
            _make(places[0])
            make_videos(options.make, places[0], say)
            found = [find_videos(places[0], None)]
        scoring = Scoring(ScoreFile(options.output / "scores.jsonl"), options.chunk_frames, watchers)
        try:
            folders = [_judge_folder(*pair, scoring, say) for pair in zip(places, found, strict=True)]
        finally:
            scoring.file.close()
        networks = {name: watcher.title for watcher in watchers if watcher.title for name in watcher.names}
        report = Report.of(folders, Settings(options.chunk_frames, str(options.prompts or ""), networks))
        write_whole(options.output / "report.json", json.dumps(report.as_json(), indent=1).encode())
        write_page(report, options.output / "report.html")
    return report


@dataclass(frozen=True)
class Scoring:
    """How videos are scored, and where scores go."""

    file: ScoreFile
    chunk_frames: int
    watchers: Sequence[Watcher] = ()


def score_video(video: Video, stamp: Stamp, scoring: Scoring) -> None:
    """Measure what is still missing of one video, in one pass over its frames; memory is flat."""
    scored = scoring.file.get(stamp)
    names, watchers = missing(scored), due_watchers(scoring.watchers, video, scored)
    if not names and not watchers:
        return
    try:
        shape = survey(video.path)
        due = [Due(one.watch(video, shape, scoring.chunk_frames), one.source(video) or "") for one in watchers]
        series = {series for name in names for series in BY_NAME[name].needs}
        read = read_series(passing(pieces(video.path, shape, lookback(series)), due), sorted(series))
    except MediaError as error:
        scoring.file.refuse(stamp, " ".join(str(error).split()))
        return
    scoring.file.add(stamp, shape, [score_metric(name, read, shape, scoring.chunk_frames) for name in names])
    for one in due:
        found = one.watch.scores()
        scoring.file.add(
            stamp, shape, [score if score.source else replace(score, source=one.source) for score in found]
        )


def _judge_folder(folder: Path, videos: Sequence[Video], scoring: Scoring, say: Say) -> Folder:
    judged = []
    for index, video in enumerate(videos, start=1):
        stamp = Stamp.of(folder, video.name, scoring.chunk_frames)
        score_video(video, stamp, scoring)
        scored = scoring.file.get(stamp)
        assert scored is not None, f"{stamp} was neither scored nor refused"
        judged.append(Judged(video, scored))
        outcome = scored.refusal or f"{scored.shape.num_frames if scored.shape else 0} frames"
        say(f"{folder} {index}/{len(videos)} · {video.name}: {outcome}")
    settings = made_with(folder)
    return Folder(
        folder.name or str(folder.resolve().name),
        tuple(one for one in judged if not one.scored.refusal),
        tuple(one for one in judged if one.scored.refusal),
        _distance(judged),
        None if settings is None else Made(settings, making_speed(folder)),
    )


def _distance(judged: Sequence[Judged]) -> Distance | None:
    """How far the clips of the procedural world lie from true ones; None where there are too few, or of many sizes."""
    known = [(one.video, one.scored.shape) for one in judged if one.video.record and one.scored.shape]
    sizes = {(shape.height, shape.width) for _, shape in known}
    if len(sizes) != 1:
        return None
    clips = []
    for video, shape in known:
        frames = [frame for piece, old in pieces(video.path, shape, 0) for frame in small(piece[old:])]
        clips.append(features(np.stack(frames)))
    return distance(clips, [video.record for video, _ in known if video.record], *sizes.pop())


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make {folder} ({error.strerror}); choose another --output") from error
