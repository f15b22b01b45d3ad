"""The verbs `train` and `prepare`; heavy libraries are imported inside them."""

import json
from pathlib import Path
from typing import Any

import click

from heliograph.options import CONTEXT, PixelSize, Steps


@click.command(context_settings=CONTEXT)
@click.argument("preset")
@click.option("--data", multiple=True, help="Prepared folder (may be repeated), or diorama.")
@click.option("--share", "shares", multiple=True, type=float, help="Share of each --data, in the same order.")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Folder of the run.")
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint in --output.")
@click.option("--dry-run", is_flag=True, help="Say what the run would cost; load and write nothing.")
@click.option(
    "--devices", type=click.IntRange(1), default=1, show_default=True, help="With --dry-run: devices to plan for."
)
@click.option("--json", "as_json", is_flag=True, help="With --dry-run: print JSON.")
# `torchrun` takes --start for an abbreviation of options of its own and refuses it, so --from is the name to use.
@click.option("--from", "--start", "start", help="Model to start from (folder or hub id), instead of the preset's.")
@click.option("--scores", help="Model of teacher and critic, instead of the preset's.")
@click.option("--max-steps", type=int, help="Steps in all, those before a resume included.")
@click.option("--batch-size", type=int, help="Examples per process.")
@click.option("--accumulation", type=int, help="Batches per process that make up one step.")
@click.option("--learning-rate", type=float, help="Of the student.")
@click.option("--size", type=PixelSize(), help="Height x width of the videos.")
@click.option("--seed", type=int, help="Of everything that is drawn.")
@click.option("--layout", type=click.Choice(["replicate", "shard"]), help="Weights on several devices.")
@click.option(
    "--idle",
    type=click.Choice(["stay", "leave"]),
    help="Distillation: frozen weights of whoever is idle leave the device.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda.")
@click.option(
    "--compile",
    "compiles",
    is_flag=True,
    help="Compile the student's blocks: minutes at first, quicker steps after.",
)
@click.option("--checkpoint-every", type=int, help="Steps between checkpoints.")
@click.option("--sample-every", type=int, help="Steps between contact sheets; 0 makes none.")
@click.option("--log-every", type=int, help="Steps between lines of figures.")
@click.option("--quiet", "-q", is_flag=True, help="No progress.")
def train(*, dry_run: bool, devices: int, as_json: bool, **options: Any) -> None:
    """Train PRESET: one phase of the three stages, from a model folder to a model folder.

    \b
    heliograph train tiny-adapt-init --data diorama --output runs/adapt
    heliograph train tiny-multiscale-init --from runs/adapt/model --data diorama --output runs/multiscale
    heliograph train adapt-init-correct --dry-run --devices 64
    torchrun --nproc-per-node 8 -m heliograph.cli train adapt-init-correct --data shards --output runs/base
    """
    from heliograph.train.run import TrainOptions, plan_train, run_train  # noqa: PLC0415 - loads torch

    given = TrainOptions(**options)
    if dry_run:
        plan = plan_train(given, devices)
        click.echo(json.dumps(plan.as_json(), indent=2) if as_json else "\n".join(plan.lines()))
        return
    model = run_train(given)
    if model is not None and not given.quiet:
        click.echo(f"{model}: trained model; use it with heliograph generate --model {model}", err=True)


@click.command(context_settings=CONTEXT)
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--output", "-o", type=click.Path(path_type=Path), required=True, help="Folder of the shards.")
@click.option(
    "--model",
    default="tiny",
    show_default=True,
    help="Whose autoencoder and text encoder: tiny, a folder, or a hub id.",
)
@click.option(
    "--size",
    "sizes",
    type=PixelSize(),
    multiple=True,
    help="Height x width to keep; may be repeated.  [default: the model's]",
)
@click.option(
    "--min-frames", default=121, show_default=True, help="Leave out shorter clips; 81 is the other usual value."
)
@click.option(
    "--fps", default="24", show_default=True, help="Frames per second to take clips at; 'file' takes every frame."
)
@click.option(
    "--stride", type=click.Choice(["1", "2"]), default="1", show_default=True, help="2 takes every second frame."
)
@click.option("--workers", default=2, show_default=True, help="Processes that decode; 0 decodes in this one.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1.")
@click.option("--seed", default=0, show_default=True, help="Of the cuts in time and of the posterior.")
@click.option(
    "--ode-pairs", is_flag=True, help="SOURCE is a text file of prompts: make a teacher's paths for distill-ode."
)
@click.option("--steps", type=Steps(), help="With --ode-pairs: the teacher's steps on each level.  [default: 20,20,20]")
@click.option("--guidance-scale", type=float, help="With --ode-pairs: the teacher's guidance.  [default: 5]")
@click.option("--negative-prompt", help="With --ode-pairs: what the teacher is guided away from.  [default: Wan's]")
@click.option("--chunks", type=int, help="With --ode-pairs: chunks of 33 frames for each prompt.  [default: 5]")
@click.option(
    "--student",
    help="With --ode-pairs: a model whose own chunks are remembered, so that it learns to go on from these.",
)
@click.option(
    "--every",
    default=1,
    show_default=True,
    help="With --student: the teacher walks every so many chunks, the first included; those between cost less.",
)
@click.option(
    "--batch-size", default=1, show_default=True, help="With --ode-pairs: prompts at once, for small models on a GPU."
)
@click.option("--quiet", "-q", is_flag=True, help="No progress.")
def prepare(source: Path, **options: Any) -> None:
    """Turn videos with captions into training shards, or prompts into ODE pairs. Started again, it goes on.

    \b
    heliograph prepare clips/ --output shards               (clip.mp4 beside clip.txt)
    heliograph prepare clips.json --output shards --model BestWishYsh/Helios-Base --device cuda
    heliograph prepare prompts.txt --ode-pairs --model runs/multiscale/model --output pairs
    """
    from heliograph.train.prepare import PrepareOptions, run_prepare  # noqa: PLC0415 - loads torch

    for line in run_prepare(PrepareOptions(source=source, **options)):
        click.echo(line, err=True)
