"""Kinds of command-line values, and the options that several verbs share."""

from collections.abc import Callable
from typing import Any

import click

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
