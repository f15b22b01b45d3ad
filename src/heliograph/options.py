"""Kinds of command-line values, and the options that several verbs share."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, get_args

import click

from heliograph.config import Lora, Runner, SpeedConfig

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
"""How every verb shows its help."""


class Steps(click.ParamType):
    """Sampling steps on each pyramid level, coarse to fine: `2,2,2`."""

    name = "N,N,N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """The numbers, or a message that shows how to write them."""
        try:
            return tuple(int(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is no list of steps; write whole numbers separated by commas, for example 2,2,2")


class Range(click.ParamType):
    """A range of noise levels: `0.111,0.135`."""

    name = "LOW,HIGH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, float]:
        """The two ends, or a message that shows how to write them."""
        try:
            low, high = (float(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is no range; write two numbers from 0 to 1, for example 0.111,0.135")
        return low, high


class LoraFile(click.ParamType):
    """An adapter and its strength: `style.safetensors=0.8`."""

    name = "FILE[=STRENGTH]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Lora:
        """The two, or a message that shows how to write them."""
        if Path(value).exists() or "=" not in value:
            return Lora(value)
        source, _, strength = value.rpartition("=")
        try:
            return Lora(source, float(strength))
        except ValueError:
            self.fail(f"{strength!r} is no strength; write a file, = and a number, for example {source}=0.8")


class PixelSize(click.ParamType):
    """Height and width in pixels: `384x640`."""

    name = "HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """The two numbers, or a message that shows how to write them."""
        try:
            height, width = (int(part) for part in value.lower().split("x"))
        except ValueError:
            self.fail(f"{value!r} is no size; write height x width in pixels, for example 384x640")
        return height, width


threads_option = click.option(
    "--threads",
    type=click.IntRange(1),
    envvar="OMP_NUM_THREADS",
    help="CPU threads; also read from OMP_NUM_THREADS.  [default: as heliograph doctor says]",
)
"""How many threads a model on the CPU may use."""


lora_option = click.option(
    "--lora",
    "loras",
    type=LoraFile(),
    multiple=True,
    help="Low-rank adapter for Helios or Wan 2.1: safetensors file or ORG/NAME/FILE on the hub. May be repeated.",
)
"""Adapters that are folded into the transformer."""


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every verb that loads a model."""
    options = (
        click.option("--model", default="tiny", show_default=True, help="tiny, a folder, or a hub id."),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps."),
        click.option(
            "--dtype",
            default="auto",
            show_default=True,
            type=click.Choice(["auto", "float32", "bfloat16", "float16", "int8"]),
            help="Number format of transformer and text encoder; int8 rounds the transformer's matrices.",
        ),
        threads_option,
    )
    for option in reversed(options):
        command = option(command)
    return command


def speed_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of `SpeedConfig`, for verbs that make video; they arrive together as `speed`."""
    options = (
        click.option(
            "--mode",
            default="exact",
            show_default=True,
            type=click.Choice(["exact", "fast"]),
            help="fast switches on what approximates and is faster here, each part also by itself below.",
        ),
        click.option("--fp8/--no-fp8", default=None, help="Multiply in 8-bit floating point."),
        click.option(
            "--history-reuse",
            type=click.Choice(["off", "level", "chunk"]),
            help="Keep the history's keys and values through the steps of a level or a chunk.",
        ),
        click.option(
            "--attention8/--no-attention8", default=None, help="Take an 8-bit attention kernel: cuDNN's or Sage's."
        ),
        click.option("--decoder", type=click.Path(path_type=Path), help="Weights of a small decoder (taew2_1)."),
        click.option("--attention", default="auto", help="An attention kernel by diffusers' name; doctor lists them."),
        click.option(
            "--runner",
            default="auto",
            type=click.Choice(get_args(Runner)),
            help="How kernels are launched; on a GPU auto takes what measures fastest. openvino is for long videos "
            "on a CPU: doctor measures from what length on.",
        ),
        click.option("--vae-device", help="Decode on a device of its own, such as cuda:1."),
    )

    @wraps(command)
    def run(**given: Any) -> Any:
        fields = ("mode", "fp8", "history_reuse", "attention8", "decoder", "attention", "runner", "vae_device")
        return command(speed=SpeedConfig(**{name: given.pop(name) for name in fields}), **given)

    for option in reversed(options):
        run = option(run)
    return run
