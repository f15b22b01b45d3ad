"""One way of running a model on a machine, and which of several to take. All sizes are bytes.

`placement.py` makes the plans from what a model needs and what there is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from heliograph.engine.needs import BLOCK_NAME
from heliograph.errors import UserError

Way = Literal[
    "whole",
    "text encoder offloaded",
    "text encoder released",
    "blocks offloaded",
    "blocks on disk",
    "int8 weights",
]
"""Ways of running, the preferred ones first; `WAYS` says what each means."""

WAYS: Mapping[Way, str] = {
    "whole": "everything stays on the device",
    "text encoder offloaded": "the text encoder stays in host memory and runs on the CPU, seconds for each new prompt",
    "text encoder released": "prompts are encoded first, then the text encoder is freed; a new prompt loads it again",
    "blocks offloaded": "transformer blocks that do not fit wait in page-locked host memory, one copy, and every "
    "step brings them to the device; prompts are encoded first, then the text encoder is freed",
    "blocks on disk": "transformer blocks that do not fit stay in the model's files, and every step reads them there; "
    "prompts are encoded first, then the text encoder is freed",
    "int8 weights": "the transformer's matrices are rounded to 8 bits, which changes the picture slightly, "
    "so only on request (--dtype int8); prompts are encoded first, then the text encoder is freed",
}
"""What each way means for whoever uses it."""

_HELP = "Free memory, ask for a smaller picture, or use a smaller model"

BLOCKS_IN_FLIGHT = 2
"""Blocks on the device while others stream through it: the one at work and the one being copied."""


@dataclass(frozen=True)
class Shortfall:
    """Memory that a plan takes and the machine does not have free."""

    resource: str
    needed_bytes: int
    free_bytes: int

    @property
    def missing_bytes(self) -> int:
        """How much is lacking."""
        return self.needed_bytes - self.free_bytes

    def __str__(self) -> str:
        """One clause of a sentence, in GB."""
        return (
            f"short of {readable(self.missing_bytes)} of {self.resource} "
            f"({readable(self.needed_bytes)} needed, {readable(self.free_bytes)} free)"
        )


@dataclass(frozen=True)
class Plan:
    """One way of running a model on one device.

    `dtype` is the transformer's and the text encoder's; the autoencoder is float32. The first `resident_blocks` blocks
    stay on the device, the others are offloaded. `device_bytes` and `host_bytes` are the highest demand at any time; a
    GPU that shares the host's memory counts in both. `num_threads` is for the CPU alone. `is_exact` says that weights
    are rounded no further than to `dtype`. A plan fits when it has no `shortfalls`; `reasons` say what it means for the
    user and why it runs in this dtype.
    """

    way: Way
    device: str
    text_device: str
    dtype: torch.dtype
    resident_blocks: int
    device_bytes: int
    host_bytes: int
    is_exact: bool = True
    num_threads: int | None = None
    shortfalls: tuple[Shortfall, ...] = ()
    reasons: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether the machine has all that the plan takes."""
        return not self.shortfalls

    @property
    def obstacle(self) -> str:
        """What the plan lacks, in words; empty if it fits."""
        return ", ".join(map(str, self.shortfalls))

    def place(self, tensor_name: str) -> torch.device:
        """Where the transformer's tensor of this name is kept; `meta`, no memory, stands for its file on disk."""
        found = BLOCK_NAME.match(tensor_name)
        if found is None or int(found[1]) < self.resident_blocks:
            return torch.device(self.device)
        return torch.device("meta" if self.way == "blocks on disk" else "cpu")


def choose(plans: Sequence[Plan], device: str = "auto") -> Plan:
    """The first exact plan that fits: on a GPU if any, and there the way that waits least.

    Args:
        plans: of `plans_for`.
        device: `auto`, or the device to stay on: `cuda:0`, `cuda` (any), `mps`, `cpu`.

    Raises:
        UserError: none fits; says for each device what comes closest and what it is short of.
    """
    here = [plan for plan in plans if device in ("auto", plan.device, _kind(plan.device))]
    if not here:
        known = ", ".join(dict.fromkeys(plan.device for plan in plans))
        raise UserError(f"there is no device {device!r} here; use auto or one of: {known}")
    fitting = [plan for plan in here if plan.fits and plan.is_exact]
    if not fitting:
        raise UserError(_nothing_fits(here))
    order = list(WAYS)
    return min(fitting, key=lambda plan: (plan.device == "cpu", order.index(plan.way)))


def choose_rounded(plans: Sequence[Plan], device: str = "auto") -> Plan:
    """The first plan with 8-bit weights that fits; `device` as for `choose`.

    Raises:
        UserError: none fits; says what the closest one lacks.
    """
    rounded = [plan for plan in plans if not plan.is_exact and device in ("auto", plan.device, _kind(plan.device))]
    if not rounded:
        raise UserError(f"there is no device {device!r} here that could hold 8-bit weights; use auto")
    for plan in rounded:
        if plan.fits:
            return plan
    raise UserError(f"{rounded[0].way!r} on {rounded[0].device} is {rounded[0].obstacle}; {_HELP}")


def name_of(dtype: torch.dtype) -> str:
    """`bfloat16` for `torch.bfloat16`."""
    return str(dtype).removeprefix("torch.")


def readable(num_bytes: int) -> str:
    """`28.68 GB`, `1.3 MB`, `31 kB`; 10⁹ bytes are a GB."""
    if num_bytes >= 1e8:
        return f"{num_bytes / 1e9:.2f} GB"
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes >= 1e5 else f"{num_bytes / 1e3:.0f} kB"


def _kind(device: str) -> str:
    return device.partition(":")[0]


def _nothing_fits(plans: Sequence[Plan]) -> str:
    """One line: for each device the exact plan that lacks least, and what would help."""
    exact = [plan for plan in plans if plan.is_exact]
    closest = [
        min(
            (plan for plan in exact if plan.device == device),
            key=lambda plan: sum(shortfall.missing_bytes for shortfall in plan.shortfalls),
        )
        for device in dict.fromkeys(plan.device for plan in exact)
    ]
    text = "; ".join(f"on {plan.device}, {plan.way!r} comes closest and is {plan.obstacle}" for plan in closest)
    rounded = [plan.device for plan in plans if plan.fits and not plan.is_exact]
    hint = f"; with --dtype int8, 'int8 weights' would fit on {rounded[0]}" if rounded else ""
    return f"the model does not fit: {text}{hint}. {_HELP}"
