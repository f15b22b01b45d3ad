"""Commands of `runs/embedded.sh`: python -m heliograph.embedded start | latents | ..."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import click

from heliograph.errors import UserError


@click.group()
def commands() -> None:
    """Make the embedded model, phase by phase; `heliograph train` does the training in between."""


@commands.command()
@click.argument("folder", type=click.Path(path_type=Path))
def start(folder: Path) -> None:
    """Write the model folder that training starts from."""
    from heliograph.embedded.start import write_start  # noqa: PLC0415 - loads torch

    write_start(folder)


@commands.command()
@click.argument("model")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--clips", default=4000, show_default=True)
@click.option("--chunks", default=4, show_default=True)
@click.option("--workers", default=1, show_default=True, help="Processes that render, one thread each.")
def latents(model: str, folder: Path, clips: int, chunks: int, workers: int) -> None:
    """Render clips of the mix and encode them with MODEL; started again, it goes on."""
    from heliograph.data.world_cache import CacheInfo, code_digest, missing_parts  # noqa: PLC0415
    from heliograph.embedded.render import open_codec, render_part  # noqa: PLC0415
    from heliograph.embedded.start import HEIGHT, WIDTH  # noqa: PLC0415

    info = CacheInfo(clips, chunks, HEIGHT, WIDTH, code_digest(open_codec(model)))
    parts = missing_parts(folder, info)
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:  # forked, PyTorch's threads would be missing
        jobs = [pool.submit(render_part, folder, part, info, model) for part in parts]
        try:
            for done, job in enumerate(jobs, 1):
                job.result()
                click.echo(f"{done}/{len(parts)} parts", err=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


@commands.command()
@click.argument("model")
@click.argument("state", type=click.Path(path_type=Path))
@click.option("--steps", default=1200, show_default=True)
@click.option("--seconds", default=540.0, show_default=True, help="Stop after this time; started again, it goes on.")
def decoder(model: str, state: Path, steps: int, seconds: float) -> None:
    """Train the network of MODEL's decoder; STATE is the file that it is kept in."""
    from heliograph.embedded.decoder import DecoderConfig, train_decoder  # noqa: PLC0415
    from heliograph.embedded.start import HEIGHT, WIDTH  # noqa: PLC0415

    is_done = train_decoder(model, state, DecoderConfig(steps), (HEIGHT, WIDTH), seconds)
    click.echo("decoder trained" if is_done else "not done yet: run it again", err=True)


if __name__ == "__main__":
    try:
        commands()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
