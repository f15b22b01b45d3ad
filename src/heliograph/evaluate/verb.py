"""The verb `evaluate`; heavy libraries are imported inside it."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from heliograph.errors import UserError
from heliograph.options import CONTEXT
from heliograph.shapes import CHUNK_FRAMES


@click.command(context_settings=CONTEXT)
@click.argument("folders", nargs=-1, required=True, metavar="DIR [DIR2]", type=click.Path(path_type=Path))
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    default="evaluation",
    show_default=True,
    help="Folder of the results.",
)
@click.option(
    "--prompts",
    type=click.Path(path_type=Path),
    help="HeliosBench CSV, or a text file with one prompt a line.  [default: clip.txt beside clip.mp4]",
)
@click.option(
    "--chunk-frames",
    type=click.IntRange(2),
    default=CHUNK_FRAMES,
    show_default=True,
    help="Frames between the borders where seams are sought.",
)
@click.option("--quiet", "-q", is_flag=True, help="No progress.")
def evaluate(folders: tuple[Path, ...], **options: Any) -> None:
    """Score the videos in DIR, or compare those of two folders, in one HTML report. Started again, it goes on.

    \b
    heliograph evaluate videos/
    heliograph evaluate videos/ --prompts helios_t2v_prompts.csv --output scores
    heliograph evaluate before/ after/ --output comparison
    """
    if find_spec("cv2") is None:
        raise UserError("evaluate needs OpenCV, which is not installed; run: pip install 'heliograph[evaluate]'")
    from heliograph.evaluate.run import EvaluateOptions, run_evaluate  # noqa: PLC0415 - loads numpy and OpenCV

    given = EvaluateOptions(folders=folders, **options)
    run_evaluate(given, (lambda _: None) if given.quiet else lambda line: click.echo(line, err=True))
    click.echo(f"{given.output / 'report.html'}")
