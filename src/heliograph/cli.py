"""The command line: `heliograph VERB …`.

Exit codes: 0 done, 2 a user's mistake (one line on stderr says what was wrong, what was given and what to do), 130
stopped with Ctrl-C. Heavy libraries are imported inside the verbs, so that `--help` and mistakes answer at once.
"""

import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

from heliograph.bench.verb import bench
from heliograph.errors import UserError
from heliograph.evaluate.verb import evaluate
from heliograph.options import CONTEXT, Range, Steps, lora_option, model_options, speed_options
from heliograph.serve.verb import serve
from heliograph.train_cli import prepare, train

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


@click.group(context_settings=CONTEXT)
@click.version_option(package_name="heliograph")
def app() -> None:
    """Helios: minutes of video in real time, from text, an image or a video."""


@app.command(context_settings=CONTEXT)
@click.argument("prompt", required=False)
@model_options
@lora_option
@speed_options
@click.option("--timeline", type=click.Path(path_type=Path), help="File with a prompt schedule, instead of PROMPT.")
@click.option("--image", type=click.Path(path_type=Path), help="Start from this picture.")
@click.option("--video", type=click.Path(path_type=Path), help="Go on from this clip.")
@click.option(
    "--image-noise",
    type=Range(),
    default="0.111,0.135",
    show_default=True,
    help="Noise on the picture: more motion, less identity.",
)
@click.option(
    "--video-noise",
    type=Range(),
    default="0.111,0.135",
    show_default=True,
    help="Noise on the remembered frames of the start.",
)
@click.option("--seconds", type=float, help="Length in seconds (24 frames each).  [default: 5]")
@click.option("--num-frames", type=int, help="Length in frames, instead of --seconds.")
@click.option("--height", type=int, help="Pixels; the default is the size the model was trained at.")
@click.option("--width", type=int, help="Pixels.")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives the same video.")
@click.option("--steps", type=Steps(), help="Sampling steps on each pyramid level, e.g. 2,2,2.")
@click.option("--first-chunk-steps", type=Steps(), help="Steps for the first chunk.  [distilled models: twice --steps]")
@click.option("--guidance-scale", type=float, help="Weight of the prompt; 1 turns guidance off.")
@click.option(
    "--guided-levels",
    type=click.IntRange(1),
    help="Pyramid levels with guidance, coarse ones first.  [default: the model's, or all]",
)
@click.option("--negative-prompt", default="", help="What to avoid; counts only with guidance.")
@click.option(
    "--match-chunks/--no-match-chunks",
    default=None,
    help="Lead each chunk in from the one before: fewer jumps.  [default: the model's, for released ones off]",
)
@click.option("--output", "-o", type=click.Path(path_type=Path), help=".mp4, .gif, .png (contact sheet) or .npy.")
@click.option("--overwrite", is_flag=True, help="Replace an existing output file.")
@click.option("--enlarge", type=click.IntRange(1, 8), default=1, help="Write frames this many times as large.")
@click.option("--latents-only", is_flag=True, help="Write latents (float32 [t, c, h, w], .npy) and decode nothing.")
@click.option("--quiet", "-q", is_flag=True, help="No progress.")
def generate(prompt: str | None, timeline: Path | None, **options: Any) -> None:
    """Make a video from PROMPT, a picture or a clip, and write it while it is made.

    \b
    heliograph generate "a red fish swims to the left" --seconds 10 --output fish.mp4
    heliograph generate "the boat sails on" --image boat.jpg --seed 7
    heliograph generate --timeline story.txt --seconds 60
    """
    from heliograph.generate import GenerateOptions, run_generate  # noqa: PLC0415 - loads torch

    run_generate(GenerateOptions(prompt=prompt, timeline=timeline, **options))


@app.command(context_settings=CONTEXT)
@click.option("--model", default="tiny", show_default=True, help="tiny, a folder, or a hub id.")
@click.option("--height", type=int, help="Pixels of the video to plan for.")
@click.option("--width", type=int, help="Pixels of the video to plan for.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(model: str, height: int | None, width: int | None, *, as_json: bool) -> None:
    """Say what this machine can run, before anything is loaded.

    \b
    heliograph doctor
    heliograph doctor --model BestWishYsh/Helios-Distilled
    """
    from heliograph.doctor import doctor_report  # noqa: PLC0415 - loads torch

    report = doctor_report(model, height, width)
    click.echo(json.dumps(report.as_json(), indent=2) if as_json else "\n".join(report.lines()))


app.add_command(bench)
app.add_command(evaluate)
app.add_command(prepare)
app.add_command(train)


app.add_command(serve)


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    # Threads that have nothing to do must sleep, not spin: where another program has one of the cores, spinning made a
    # chunk of the embedded model take eighty times as long. Read when PyTorch is loaded, so it is set before that.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app(standalone_mode=False)
    except click.exceptions.Exit as leave:
        sys.exit(leave.exit_code)
    except click.ClickException as error:
        _fail(error.format_message())
    except UserError as error:
        _fail(str(error))
    except (KeyboardInterrupt, click.Abort):
        click.echo("heliograph: stopped", err=True)
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(0)


def _fail(message: str) -> NoReturn:
    """One line on stderr, whatever the message holds."""
    click.echo(f"heliograph: {' '.join(message.split())}", err=True)
    sys.exit(EXIT_USER_ERROR)


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    """Being told to terminate ends a run as Ctrl-C does: what was written stays playable."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
