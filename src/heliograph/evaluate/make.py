"""Videos to evaluate, made by a model from a file of prompts: one after the other, so that a stopped run goes on.

The only part of the evaluation that opens a model.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from heliograph.errors import OutputError, UserError
from heliograph.evaluate.wanted import PROMPTS_FILE, Wanted, read_wanted
from heliograph.media.sink import BackgroundSink, open_sink
from heliograph.media.target import write_whole
from heliograph.pipeline import Choices, HeliosPipeline, video_length
from heliograph.seeds import check_seed
from heliograph.shapes import CHUNK_FRAMES, FPS

SETTINGS_FILE, LOG_FILE = "making.json", "making.jsonl"
"""In the folder of the videos: what they were made with; and one line for each, with the time it took."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class MakeOptions:
    """What to make. None takes the model's own value.

    Attributes:
        model: `tiny`, a folder or a hub id.
        prompts: file of prompts.
        limit: only the first so many prompts.
        seconds, num_frames: length of videos whose prompt does not say it; 5 seconds if neither is given.
        height, width: pixels.
        seed: of the first prompt; the next has the next number.
    """

    model: str
    prompts: Path
    limit: int | None = None
    seconds: float | None = None
    num_frames: int | None = None
    height: int | None = None
    width: int | None = None
    seed: int = 0
    steps: tuple[int, ...] | None = None
    guidance_scale: float | None = None
    match_chunks: bool | None = None
    device: str = "auto"
    dtype: str = "auto"


def make_videos(options: MakeOptions, folder: Path, say: Say) -> None:
    """Make every video that is not there yet, and write the prompts beside them.

    A video gets its name when it is complete; one that was under way is made again.

    Raises:
        UserError: the prompts, the model or the settings cannot be used, or the folder has videos of other settings.
    """
    wanted = read_wanted(options.prompts)[: options.limit]
    usual = video_length(options.seconds, options.num_frames)
    check_seed(options.seed + len(wanted) - 1)
    prompts = "".join(json.dumps(one.as_json(), ensure_ascii=False) + "\n" for one in wanted)
    names = [file_name(one, one.num_frames or usual) for one in wanted]
    pipeline = HeliosPipeline.from_pretrained(
        options.model, device=options.device, dtype=options.dtype, prompts=tuple(one.prompt for one in wanted)
    )
    settings = _settings(options, usual, pipeline)
    _check_settings(folder, settings)
    _check_settled(folder, names, wanted)
    write_whole(folder / PROMPTS_FILE, prompts.encode())
    for left in folder.glob(".making-*"):
        left.unlink(missing_ok=True)
    due = [index for index, name in enumerate(names) if not (folder / name).exists()]
    if len(due) < len(names):
        say(f"{len(names) - len(due)} of {len(names)} videos are there already")
    began = time.perf_counter()
    for done, index in enumerate(due, start=1):
        seconds = _make(pipeline, wanted[index], options, index, folder / names[index], usual)
        left = (time.perf_counter() - began) / done * (len(due) - done)
        frames = wanted[index].num_frames or usual
        _log(folder, {"video": names[index], "seed": options.seed + index, "num_frames": frames, "seconds": seconds})
        say(
            f"made {index + 1}/{len(names)} · {names[index]} · {frames / seconds:.1f} frames/s · "
            f"{int(left) // 60}:{int(left) % 60:02} left"
        )


def file_name(wanted: Wanted, num_frames: int) -> str:
    """HeliosBench's name for prompts with a number for an id and a length of their own; else the id."""
    is_bench = wanted.key.isdigit() and wanted.num_frames is not None
    return f"{wanted.key}_{wanted.num_frames}_ori{num_frames}.mp4" if is_bench else f"{wanted.key}.mp4"


def making_speed(folder: Path) -> float | None:
    """Frames per second over all videos of a folder that were made here, from prompt to file; None if none was."""
    try:
        lines = (folder / LOG_FILE).read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        frames, seconds = sum(row["num_frames"] for row in rows), sum(row["seconds"] for row in rows)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return frames / seconds if seconds else None


def made_with(folder: Path) -> dict[str, Any] | None:
    """What the videos of a folder were made with, where they were made here."""
    try:
        return json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _make(pipeline: HeliosPipeline, wanted: Wanted, options: MakeOptions, index: int, path: Path, usual: int) -> float:
    """One video; returns the seconds from the prompt to the complete file."""
    began, length = time.perf_counter(), wanted.num_frames or usual
    choices = _sampling(options)
    choices["seed"] = options.seed + index
    session = pipeline.session(wanted.prompt, **choices)
    part = path.with_name(f".making-{path.name}")
    with BackgroundSink(open_sink(part, FPS)) as sink:
        for start in range(0, length, CHUNK_FRAMES):
            sink.write(session.next_chunk().frames[: min(CHUNK_FRAMES, length - start)])
    part.replace(path)
    return time.perf_counter() - began


def _settings(options: MakeOptions, usual: int, pipeline: HeliosPipeline) -> dict[str, Any]:
    """All that the frames depend on besides the prompts."""
    request = pipeline.request("x", **_sampling(options))
    return {
        "model": options.model,
        "fingerprint": pipeline.engine.fingerprint,
        "seed": options.seed,
        "usual_num_frames": usual,
        "match_chunks": options.match_chunks,
        "dtype": options.dtype,
        "sampler": asdict(request.sampler),
        "size": [request.height, request.width],
    }


def _sampling(options: MakeOptions) -> Choices:
    """What every video is asked with."""
    return Choices(
        height=options.height,
        width=options.width,
        steps=options.steps,
        guidance_scale=options.guidance_scale,
        match_chunks=options.match_chunks,
    )


def _check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Videos of different settings must not be mixed; the settings are stored before the first video."""
    stored, plain = made_with(folder), json.loads(json.dumps(settings))
    if stored is None:
        write_whole(folder / SETTINGS_FILE, json.dumps(plain, indent=1).encode())
    elif stored != plain:
        names = ", ".join(name for name in plain if stored.get(name) != plain[name])
        raise UserError(
            f"{folder} has videos that were made with other settings ({names}); choose another --output, or delete it"
        )


def _check_settled(folder: Path, names: Sequence[str], wanted: Sequence[Wanted]) -> None:
    """A prompt that was changed since its video was made would be judged by the wrong video."""
    file = folder / PROMPTS_FILE
    if not file.is_file():
        return
    before = {one.key: one for one in read_wanted(file)}
    for name, one in zip(names, wanted, strict=True):
        if (folder / name).exists() and before.get(one.key, one) != one:
            raise UserError(f"{folder / name} was made from another prompt; choose another --output, or delete it")


def _log(folder: Path, line: dict[str, Any]) -> None:
    try:
        with (folder / LOG_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        raise OutputError(f"{folder / LOG_FILE} cannot be written ({error.strerror}); free some space") from error
