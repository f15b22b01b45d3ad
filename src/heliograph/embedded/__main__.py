"""python -m heliograph.embedded COMMAND: what `runs/embedded.sh` runs, and what docs/evidence.md is made with."""

import click

from heliograph.embedded.making import MAKING
from heliograph.embedded.measuring import MEASURING
from heliograph.errors import UserError


@click.group()
def commands() -> None:
    """Make the embedded model, phase by phase (`heliograph train` does the training in between), and measure it."""


for command in (*MAKING, *MEASURING):
    commands.add_command(command)

if __name__ == "__main__":
    try:
        commands()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
