"""The verb `evaluate`; heavy libraries are imported inside it."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from heliograph.errors import UserError
from heliograph.options import CONTEXT, Steps
from heliograph.shapes import CHUNK_FRAMES

if TYPE_CHECKING:
    from heliograph.evaluate.run import EvaluateOptions

PATH = click.Path(path_type=Path)

MAKING = (
    *("limit", "seconds", "num_frames", "height", "width", "seed"),
    *("steps", "guidance_scale", "match_chunks", "dtype"),
)
"""Options of the videos that are made."""


@click.command(context_settings=CONTEXT)
@click.argument("folders", nargs=-1, metavar="[DIR]...", type=click.Path(path_type=Path))
@click.option("--output", "-o", type=PATH, default="evaluation", show_default=True, help="Folder of the results.")
@click.option("--prompts", type=PATH, help="HeliosBench CSV, JSON lines, or text with one prompt a line.")
@click.option(
    "--chunk-frames",
    type=click.IntRange(2),
    default=CHUNK_FRAMES,
    show_default=True,
    help="Frames between the borders where seams are sought.",
)
@click.option("--model", help="Make the videos first: tiny, a folder, or a hub id. Needs --prompts.")
@click.option("--limit", type=click.IntRange(1), help="Only the first so many prompts.  [with --model]")
@click.option("--seconds", type=float, help="Length where the prompts do not say it.  [with --model; default: 5]")
@click.option("--num-frames", type=int, help="Length in frames, instead of --seconds.  [with --model]")
@click.option("--height", type=int, help="Pixels.  [with --model]")
@click.option("--width", type=int, help="Pixels.  [with --model]")
@click.option("--seed", type=int, default=0, help="Seed of the first video; the next has the next.  [with --model]")
@click.option("--steps", type=Steps(), help="Sampling steps on each pyramid level.  [with --model]")
@click.option("--guidance-scale", type=float, help="Weight of the prompt.  [with --model]")
@click.option("--match-chunks/--no-match-chunks", default=None, help="As for generate.  [with --model]")
@click.option("--device", default="auto", help="Where the model and networks run: auto, cpu, cuda, …")
@click.option("--dtype", default="auto", help="As for generate.  [with --model]")
@click.option("--weights", type=PATH, help="Folder with networks: CLIP, aesthetic head, ViCLIP, AMT-S.")
@click.option("--judge", metavar="URL", help="OpenAI-compatible address of a judge, such as http://host/v1.")
@click.option("--judge-model", default="gpt-5.2-2025-12-11", show_default=True, help="The judge's name there.")
@click.option("--judge-key", envvar="HELIOGRAPH_JUDGE_KEY", help="Its key, or HELIOGRAPH_JUDGE_KEY.  [default: none]")
@click.option("--vote", is_flag=True, help="Open a local page on which two folders are compared blindly by people.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port of that page.  [default: a free one]")
@click.option("--quiet", "-q", is_flag=True, help="No progress.")
def evaluate(folders: tuple[Path, ...], **options: Any) -> None:
    """Score the videos in DIR, or compare several folders with the first, in one HTML report.

    With --model the videos are made first. Started again, it goes on where it was.

    \b
    heliograph evaluate videos/
    heliograph evaluate videos/ --prompts helios_t2v_prompts.csv --output scores
    heliograph evaluate before/ after/ --output comparison
    heliograph evaluate --model tiny --prompts prompts.txt --output tiny-scores
    heliograph evaluate --vote before/ after/ --output votes
    """
    if find_spec("cv2") is None:
        raise UserError("evaluate needs OpenCV, which is not installed; run: pip install 'heliograph[evaluate]'")
    if options["vote"]:
        from heliograph.evaluate.vote_server import run_vote  # noqa: PLC0415 - loads a server

        run_vote(folders, options["output"], options["port"], click.echo)
        return
    from heliograph.evaluate.run import run_evaluate  # noqa: PLC0415 - loads numpy and OpenCV

    given = _given(folders, options)
    run_evaluate(given, (lambda _: None) if options["quiet"] else lambda line: click.echo(line, err=True))
    click.echo(f"{given.output / 'report.html'}")


def _given(folders: tuple[Path, ...], options: dict[str, Any]) -> "EvaluateOptions":
    """The options of a run; those for making videos are refused where none is made."""
    from heliograph.evaluate.make import MakeOptions  # noqa: PLC0415
    from heliograph.evaluate.networks.load import NetworkOptions  # noqa: PLC0415
    from heliograph.evaluate.run import EvaluateOptions  # noqa: PLC0415

    making = {name: options[name] for name in MAKING}
    make = None
    if options["model"] is not None:
        if options["prompts"] is None:
            raise UserError("--model was given without --prompts; give a file with one prompt a line")
        make = MakeOptions(options["model"], options["prompts"], **making, device=options["device"])
    elif extra := [name for name in MAKING if making[name] not in (None, False, 0, "auto")]:
        raise UserError(f"--{extra[0].replace('_', '-')} was given without --model; videos that are there are not made")
    networks = NetworkOptions(
        **{name: options[name] for name in ("weights", "judge", "judge_model", "judge_key", "device")}
    )
    return EvaluateOptions(folders, options["output"], options["prompts"], options["chunk_frames"], make, networks)
