"""The verb `bench`; heavy libraries are imported inside it."""

from pathlib import Path
from typing import Any

import click

from heliograph.options import CONTEXT, PixelSize, Steps, model_options, speed_options


@click.command(context_settings=CONTEXT)
@model_options
@speed_options
@click.option(
    "--random-weights", help="Instead of a model: the shape of one, 14b, 1b or small, filled with random numbers."
)
@click.option("--against", type=click.Choice(["diffusers"]), help="Do the same work there too, in turn.")
@click.option("--compile-theirs", is_flag=True, help="Compile diffusers' transformer as the released script does.")
@click.option("--their-threads", type=click.IntRange(1), help="CPU threads for diffusers.  [default: as ours]")
@click.option("--steps", type=Steps(), help="Sampling steps on each pyramid level.  [default: the model's]")
@click.option("--size", type=PixelSize(), help="Height x width in pixels.  [default: the model's]")
@click.option("--guidance-scale", type=float, help="Weight of the prompt; 1 turns it off.  [default: the model's]")
@click.option("--chunks", default=6, show_default=True, help="Chunks in a run; the first is reported apart.")
@click.option("--rounds", default=4, show_default=True, help="Runs of each engine, in the order A-B-B-A.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all figures to this file, too.")
def bench(**options: Any) -> None:
    """Measure frames per second from end to end, the parts of a chunk, and memory.

    \b
    heliograph bench
    heliograph bench --against diffusers --json bench.json
    heliograph bench --random-weights 14b --against diffusers --steps 1,1,1
    heliograph bench --random-weights 14b --mode fast --steps 1,1,1
    """
    from heliograph.bench.bench import BenchOptions, run_bench  # noqa: PLC0415 - loads torch

    report = run_bench(BenchOptions(**options), lambda line: click.echo(line, err=True))
    click.echo("\n".join(report.lines()))
