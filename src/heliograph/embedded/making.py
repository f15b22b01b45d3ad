"""Commands that make the embedded model, phase by phase; what they run is imported when they are called."""

from functools import partial
from pathlib import Path

import click

from heliograph.options import PixelSize, Steps

UNFINISHED = 75
"""Exit status of a phase whose time was up; the shell's word for it is "try again"."""

PARTS_AT_ONCE = 4
"""Parts of a cache that a GPU renders together: launching takes its time, hardly more for 200 clips than for 50."""


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
def start(folder: Path) -> None:
    """Write the model folder that training starts from."""
    from heliograph.embedded.start import write_start  # noqa: PLC0415 - loads torch

    write_start(folder)


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--channels", default=32, show_default=True, help="Numbers of a latent cell.")
def widen(model: Path, folder: Path, channels: int) -> None:
    """Write MODEL with more numbers for each latent cell as FOLDER; it is trained on from there."""
    from heliograph.embedded.widen import widen as write  # noqa: PLC0415 - loads torch

    write(model, folder, channels)


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
def finer(model: Path, folder: Path) -> None:
    """Write MODEL with latent cells of half the side as FOLDER; it is trained on from there."""
    from heliograph.embedded.finer import finer as write  # noqa: PLC0415 - loads torch

    write(model, folder)


@click.command()
@click.argument("model")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--size", type=PixelSize(), required=True, help="Height x width in pixels.")
def larger(model: str, folder: Path, size: tuple[int, int]) -> None:
    """Write MODEL for pictures of another size as FOLDER; it is trained on from there."""
    from heliograph.embedded.larger import larger as write  # noqa: PLC0415 - loads torch

    write(model, folder, size)


@click.command()
@click.argument("student")
@click.argument("teacher")
@click.argument("model")
@click.argument("folder", type=click.Path(path_type=Path))
def carry(student: str, teacher: str, model: str, folder: Path) -> None:
    """Write MODEL, trained on from TEACHER, with what distillation changed from TEACHER to STUDENT, as FOLDER."""
    from heliograph.embedded.carry import carry as write  # noqa: PLC0415 - loads torch

    write(student, teacher, model, folder)


@click.command()
@click.argument("model")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--clips", default=4000, show_default=True)
@click.option("--chunks", default=4, show_default=True)
@click.option("--late", default=0, show_default=True, help="Of the clips, how many begin later in their video.")
@click.option(
    "--workers",
    default=1,
    type=click.IntRange(1),
    show_default=True,
    help="Processes that render on a CPU, one thread each.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1.")
def latents(model: str, folder: Path, clips: int, chunks: int, late: int, workers: int, device: str) -> None:
    """Render clips of the mix and encode them with MODEL; started again, it goes on."""
    from heliograph.data.world_cache import CacheInfo, code_digest, missing_parts, write_parts  # noqa: PLC0415
    from heliograph.embedded.apart import call_apart  # noqa: PLC0415
    from heliograph.embedded.render import MIX, open_codec, render_part, size_of  # noqa: PLC0415
    from heliograph.train.parallel import joined  # noqa: PLC0415

    with joined(device) as parallel:
        place = parallel.device
    codec = open_codec(model, place)
    info = CacheInfo(clips, chunks, *size_of(model), code_digest(codec), late)
    missing = missing_parts(folder, info)
    if place.type == "cuda":
        for first in range(0, len(missing), PARTS_AT_ONCE):
            parts = missing[first : first + PARTS_AT_ONCE]
            write_parts(folder, parts, info, MIX, codec)
            click.echo(f"{first + len(parts)}/{len(missing)} parts", err=True)
        return
    calls = [partial(render_part, folder, part, info, model) for part in missing]
    call_apart(calls, workers, lambda done: click.echo(f"{done}/{len(missing)} parts", err=True))


@click.command()
@click.argument("model")
@click.argument("state", type=click.Path(path_type=Path))
@click.option("--steps", default=3000, show_default=True)
@click.option("--learning-rate", default=5e-4, show_default=True)
@click.option("--seconds", default=540.0, show_default=True, help="Stop after this time; started again, it goes on.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1.")
def decoder(model: str, state: Path, steps: int, learning_rate: float, seconds: float, device: str) -> None:
    """Train the network of MODEL's decoder; STATE is the file that it is kept in.

    One that was trained before is trained on.
    """
    from heliograph.embedded.decoder import DecoderConfig, train_decoder  # noqa: PLC0415 - loads torch
    from heliograph.embedded.render import size_of  # noqa: PLC0415
    from heliograph.train.parallel import joined  # noqa: PLC0415

    config = DecoderConfig(steps, learning_rate=learning_rate)
    with joined(device) as parallel:
        is_done = train_decoder(model, state, config, size_of(model), seconds, parallel.device)
    _end(is_done=is_done)


@click.command()
@click.argument("model")
@click.argument("latents", type=click.Path(path_type=Path))
@click.argument("state", type=click.Path(path_type=Path))
@click.option("--steps", default=2500, show_default=True)
@click.option("--chunks", default=900, show_default=True, help="Examples.")
@click.option("--learning-rate", default=6e-4, show_default=True)
@click.option("--seconds", default=540.0, show_default=True, help="Stop after this time; started again, it goes on.")
def refine(
    model: str, latents: Path, state: Path, steps: int, chunks: int, learning_rate: float, seconds: float
) -> None:
    """Train the network that refines what MODEL's decoder paints, on clips of the cache LATENTS.

    A refiner that MODEL has is trained on.
    """
    from heliograph.embedded.refine import RefineConfig, cached_clips, train_refiner  # noqa: PLC0415 - loads torch
    from heliograph.embedded.start import REFINER_DIM  # noqa: PLC0415

    config = RefineConfig(steps, chunks, learning_rate=learning_rate)
    _end(is_done=train_refiner(model, cached_clips(latents), state, config, REFINER_DIM, seconds))


@click.command()
@click.argument("model")
@click.argument("latents", type=click.Path(path_type=Path))
@click.argument("refined", type=click.Path(path_type=Path))
@click.argument("state", type=click.Path(path_type=Path))
@click.option("--steps", default=1100, show_default=True)
@click.option("--chunks", default=900, show_default=True, help="Examples.")
@click.option("--seconds", default=540.0, show_default=True, help="Stop after this time; started again, it goes on.")
def sharpen(model: str, latents: Path, refined: Path, state: Path, steps: int, chunks: int, seconds: float) -> None:
    """Train the refiner of the state REFINED on against a critic, so that edges are edges."""
    from heliograph.embedded.refine import cached_clips  # noqa: PLC0415 - loads torch
    from heliograph.embedded.sharpen import SharpenConfig, sharpen_refiner  # noqa: PLC0415

    config = SharpenConfig(steps, chunks)
    _end(is_done=sharpen_refiner(model, cached_clips(latents), refined, state, config, seconds))


def _end(*, is_done: bool) -> None:
    """Say whether a training is done, and exit with `UNFINISHED` where it is not."""
    click.echo("trained" if is_done else "not done yet: run it again", err=True)
    if not is_done:
        raise SystemExit(UNFINISHED)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--count", default=400, show_default=True)
def prompts(file: Path, count: int) -> None:
    """Write captions of the mix, one a line: what the teacher of stage 3 is asked for."""
    from heliograph.embedded.mix import teaching_prompts  # noqa: PLC0415
    from heliograph.media.target import write_whole  # noqa: PLC0415

    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, "".join(f"{line}\n" for line in teaching_prompts(count)).encode())


STEPS = "2,1,1"
"""Steps on each level that the embedded model is sampled with: it is distilled."""

GUIDANCE, GUIDED_LEVELS = 1.35, 1
"""And its guidance, a little, so that subjects last, on the level where they are decided: six evaluations a chunk."""


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--decoder", type=click.Path(path_type=Path), help="State of the decoder's training.")
@click.option("--refiner", type=click.Path(path_type=Path), help="State of the refiner's training.")
@click.option("--steps", default=STEPS, type=Steps(), show_default=True)
@click.option("--first-chunk-steps", type=Steps())
@click.option("--guidance-scale", default=GUIDANCE, show_default=True)
@click.option("--guided-levels", default=GUIDED_LEVELS, show_default=True, help="Levels with guidance, coarse first.")
def pack(
    model: Path,
    folder: Path,
    decoder: Path | None,
    refiner: Path | None,
    steps: tuple[int, ...],
    first_chunk_steps: tuple[int, ...] | None,
    guidance_scale: float,
    guided_levels: int,
) -> None:
    """Write trained MODEL as FOLDER, the way it is installed."""
    from heliograph.embedded.pack import Decoding, Native  # noqa: PLC0415 - loads torch
    from heliograph.embedded.pack import pack as write  # noqa: PLC0415
    from heliograph.embedded.render import size_of  # noqa: PLC0415

    native = Native(*size_of(str(model)), steps, first_chunk_steps, guidance_scale, guided_levels)
    size = write(model, Decoding(decoder, refiner), folder, native)
    click.echo(f"{folder}: {size / 1e6:.1f} MB", err=True)


MAKING = (start, widen, finer, larger, carry, latents, decoder, refine, sharpen, prompts, pack)
"""In the order of `runs/embedded.sh`, with `heliograph train` in between."""
