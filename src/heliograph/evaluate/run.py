"""Score the videos of one folder or two, and write `scores.jsonl`, `report.json` and `report.html`."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from heliograph.errors import MediaError, OutputError, UserError
from heliograph.evaluate.catalogue import BY_NAME
from heliograph.evaluate.page import write_page
from heliograph.evaluate.report import Report, Settings
from heliograph.evaluate.scores import ScoreFile, Stamp, missing, score_metric
from heliograph.evaluate.series import lookback, read_series
from heliograph.evaluate.summary import Folder, Judged
from heliograph.evaluate.videos import Video, find_videos, pieces, survey
from heliograph.media.lock import hold_folder
from heliograph.media.target import write_whole

Say = Callable[[str], None]
"""Takes one line of progress."""


@dataclass(frozen=True)
class EvaluateOptions:
    """What was asked for on the command line.

    Attributes:
        folders: one, or two to compare.
        output: folder of the results.
        prompts: file of prompts, or None to look beside the videos.
        chunk_frames: frames between the borders that seams are sought at.
        quiet: no progress.
    """

    folders: tuple[Path, ...]
    output: Path
    prompts: Path | None
    chunk_frames: int
    quiet: bool = False

    def __post_init__(self) -> None:
        if not 1 <= len(self.folders) <= 2:
            raise UserError(f"{len(self.folders)} folders were given; give one, or two to compare")
        if len({folder.resolve() for folder in self.folders}) < len(self.folders):
            raise UserError(f"{self.folders[0]} was given twice; give two different folders to compare")


def run_evaluate(options: EvaluateOptions, say: Say) -> Report:
    """Score every video that has no scores yet, and write the report; a video that cannot be read is named in it.

    Raises:
        UserError: a folder holds no video, the prompts do not fit, or the output cannot be written.
    """
    found = [find_videos(folder, options.prompts) for folder in options.folders]
    _make(options.output)
    with hold_folder(options.output):
        file = ScoreFile(options.output / "scores.jsonl")
        try:
            folders = [
                _judge_folder(folder, videos, file, options, say)
                for folder, videos in zip(options.folders, found, strict=True)
            ]
        finally:
            file.close()
        report = Report.of(folders, Settings(options.chunk_frames, str(options.prompts or "")))
        write_whole(options.output / "report.json", json.dumps(report.as_json(), indent=1).encode())
        write_page(report, options.output / "report.html")
    return report


def score_video(video: Video, stamp: Stamp, file: ScoreFile) -> None:
    """Measure what is still missing of one video, in one pass over its frames; memory is flat."""
    names = missing(file.get(stamp))
    if not names:
        return
    try:
        shape = survey(video.path)
        series = {series for name in names for series in BY_NAME[name].needs}
        read = read_series(pieces(video.path, shape, lookback(series)), sorted(series))
    except MediaError as error:
        file.refuse(stamp, " ".join(str(error).split()))
        return
    file.add(stamp, shape, [score_metric(name, read, shape, stamp.chunk_frames) for name in names])


def _judge_folder(folder: Path, videos: Sequence[Video], file: ScoreFile, options: EvaluateOptions, say: Say) -> Folder:
    judged = []
    for index, video in enumerate(videos, start=1):
        stamp = Stamp.of(folder, video.name, options.chunk_frames)
        score_video(video, stamp, file)
        scored = file.get(stamp)
        assert scored is not None, f"{stamp} was neither scored nor refused"
        judged.append(Judged(video, scored))
        outcome = scored.refusal or f"{scored.shape.num_frames if scored.shape else 0} frames"
        say(f"{folder} {index}/{len(videos)} · {video.name}: {outcome}")
    return Folder(
        folder.name or str(folder.resolve().name),
        tuple(one for one in judged if not one.scored.refusal),
        tuple(one for one in judged if one.scored.refusal),
    )


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make {folder} ({error.strerror}); choose another --output") from error
