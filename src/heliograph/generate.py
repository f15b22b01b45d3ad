"""The verb `generate`: a prompt and a pipeline to a file that is written while the video is made."""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType

from einops import rearrange

from heliograph.config import Lora, SpeedConfig, StartNoise
from heliograph.engine.session import Session, chunks_of
from heliograph.engine.threads import use_threads
from heliograph.errors import UserError
from heliograph.media.enlarge import enlarge
from heliograph.media.latents import LatentsFile
from heliograph.media.sink import BackgroundSink, open_sink
from heliograph.pipeline import HeliosPipeline, video_length
from heliograph.progress import Progress
from heliograph.seeds import check_seed
from heliograph.shapes import CHUNK_FRAMES, FPS, chunks_for
from heliograph.text import check_prompt
from heliograph.timeline import Cue, PromptTimeline, read_timeline


@dataclass(frozen=True)
class GenerateOptions:
    """The options of the command line, as given."""

    prompt: str | None
    timeline: Path | None
    model: str
    device: str
    dtype: str
    threads: int | None
    loras: tuple[Lora, ...]
    speed: SpeedConfig
    image: Path | None
    video: Path | None
    image_noise: tuple[float, float]
    video_noise: tuple[float, float]
    seconds: float | None
    num_frames: int | None
    height: int | None
    width: int | None
    seed: int
    steps: tuple[int, ...] | None
    first_chunk_steps: tuple[int, ...] | None
    guidance_scale: float | None
    guided_levels: int | None
    negative_prompt: str
    match_chunks: bool | None
    output: Path | None
    overwrite: bool
    enlarge: int
    latents_only: bool
    quiet: bool

    def __post_init__(self) -> None:
        if self.match_chunks and self.latents_only:
            raise UserError("--match-chunks changes frames, and --latents-only makes none; leave one of them out")


def run_generate(options: GenerateOptions) -> None:
    """Make the video that the options ask for.

    Everything that can be checked is checked before the model is loaded, and the output place before the first chunk.

    Raises:
        UserError: the message says what was wrong, what was given and what to do.
        KeyboardInterrupt: stopped by the user; the file holds what was made until then, and a message says so.
    """
    prompts = _prompts(options)
    check_seed(options.seed)
    length = video_length(options.seconds, options.num_frames)
    noise = StartNoise(options.image_noise, options.video_noise)
    writer = _writer(options, prompts)
    pipeline = HeliosPipeline.from_pretrained(
        options.model,
        device=options.device,
        dtype=options.dtype,
        prompts=(*(cue.prompt for cue in prompts.cues), options.negative_prompt),
        speed=options.speed,
        loras=options.loras,
    )
    use_threads(options.threads, pipeline.engine.num_threads)
    session = pipeline.session(
        prompts,
        image=options.image,
        video=options.video,
        height=options.height,
        width=options.width,
        seed=options.seed,
        steps=options.steps,
        first_chunk_steps=options.first_chunk_steps,
        guidance_scale=options.guidance_scale,
        guided_levels=options.guided_levels,
        negative_prompt=options.negative_prompt,
        start_noise=noise,
        match_chunks=options.match_chunks,
    )
    _tell_what_is_ignored(session, prompts)
    approximations = pipeline.engine.approximations
    if approximations and not options.quiet:
        _tell(f"approximated for speed: {', '.join(approximations)}")
    elif options.speed.mode == "fast" and not options.quiet:
        _tell("nothing is approximated: fast mode has nothing to take here")
    progress = Progress(chunks_for(length), is_quiet=options.quiet)
    session.on_step = progress.on_step
    try:
        with progress:
            _write_all(session, writer, length, progress)
    except KeyboardInterrupt:
        _tell(_result(writer, "stopped: "))
        raise
    if not options.quiet:
        _tell(_result(writer, "") + _speed(progress))


def _write_all(session: Session, writer: "VideoWriter | LatentsWriter", length: int, progress: Progress) -> None:
    """Chunk after chunk into the writer; each is written while the next is made."""
    with writer:
        for _ in writer.written(session, length):
            progress.on_chunk()


class VideoWriter:
    """Decoded chunks into a video file, encoded in a thread of its own."""

    def __init__(self, path: Path, *, overwrite: bool, factor: int = 1) -> None:
        self.path, self.factor = path, factor
        self._sink = BackgroundSink(open_sink(path, FPS, overwrite=overwrite))

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self._sink.close()  # the chunks that are made are worth keeping
        else:
            self._sink.__exit__(kind, error, trace)

    def written(self, session: Session, length: int) -> Iterator[None]:
        """Make `length` frames; stops after each chunk that was handed over."""
        for number, chunk in enumerate(chunks_of(session, chunks_for(length))):
            self._sink.write(enlarge(chunk.frames[: length - number * CHUNK_FRAMES], self.factor))
            yield

    @property
    def contents(self) -> str:
        """What is in the file, in words."""
        frames = self._sink.num_frames
        return f"{frames} frames, {frames / FPS:.2f} s" if frames else ""


class LatentsWriter:
    """Latents into an array file; nothing is decoded."""

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        self.path = path
        self._file = LatentsFile(path, overwrite=overwrite)

    def __enter__(self) -> "LatentsWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def written(self, session: Session, length: int) -> Iterator[None]:
        """Make the chunks of `length` frames, whole: a part of a chunk's latents would decode to other frames."""
        for _ in range(chunks_for(length)):
            latents = session.next_turn().latents[0].float().cpu()
            self._file.write(rearrange(latents, "c t h w -> t c h w").numpy())
            yield

    @property
    def contents(self) -> str:
        """What is in the file, in words."""
        return f"{self._file.num_frames} latent frames" if self._file.num_frames else ""


def _prompts(options: GenerateOptions) -> PromptTimeline:
    """The prompt schedule: PROMPT for the whole video, or the file."""
    if options.prompt is not None and options.timeline is not None:
        raise UserError("both PROMPT and --timeline were given; give one of them")
    if options.timeline is not None:
        return read_timeline(options.timeline)
    if options.prompt is None:
        raise UserError(
            "no prompt was given; write one, for example heliograph generate 'a red fish swims to the left'"
        )
    return PromptTimeline((Cue(0, check_prompt(options.prompt)),))


def _writer(options: GenerateOptions, prompts: PromptTimeline) -> VideoWriter | LatentsWriter:
    suffix = ".npy" if options.latents_only else ".mp4"
    path = options.output or free_name(prompts.at(0).next, options.seed, suffix, Path.cwd())
    if options.latents_only:
        return LatentsWriter(path, overwrite=options.overwrite)
    return VideoWriter(path, overwrite=options.overwrite, factor=options.enlarge)


def free_name(prompt: str, seed: int, suffix: str, folder: Path) -> Path:
    """A file name that says what is in it and is not taken yet: `a-red-fish-seed0.mp4`, then `…-2.mp4`."""
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower())[:48].strip("-") or "video"
    stem = f"{words}-seed{seed}"
    names = (folder / f"{stem}{f'-{n}' if n > 1 else ''}{suffix}" for n in count(1))
    return next(path for path in names if not path.exists())


def _tell_what_is_ignored(session: Session, prompts: PromptTimeline) -> None:
    """Say so where a prompt is too long or has words that say nothing to the model, before the long work begins."""
    for cue in prompts.cues:
        if session.is_truncated(cue.prompt):
            _tell(f"the prompt {cue.prompt[:40]!r}… is longer than the model reads; its end is ignored")
        if unknown := session.unknown_words(cue.prompt):
            words = ", ".join(map(repr, unknown))
            _tell(f"this model does not know {words} in {cue.prompt[:60]!r}; it goes by the rest")


def _result(writer: VideoWriter | LatentsWriter, lead: str) -> str:
    return f"{lead}{writer.path}: {writer.contents}" if writer.contents else f"{lead}nothing was written"


def _speed(progress: Progress) -> str:
    return (
        f"; {progress.frames_per_second:.1f} frames/s ({progress.real_time_factor:.2f}× real time), "
        f"first chunk after {progress.first_chunk_seconds:.2f} s"
    )


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
