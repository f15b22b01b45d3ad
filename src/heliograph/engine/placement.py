"""Where a model can run: every way of running it on this machine, and which of them fit.

Pure arithmetic on what the model needs (`needs.py`) and what there is (`machine.py`); `plan.py` says which to take. All
sizes are bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from heliograph.engine.machine import Device, Machine
from heliograph.engine.needs import ModelNeeds, PartNeeds
from heliograph.engine.plan import BLOCKS_IN_FLIGHT, WAYS, Plan, Shortfall, Way, name_of
from heliograph.engine.threads import threads_for
from heliograph.shapes import LARGE_PARAMETERS

RUNTIME_BYTES = {"cpu": 500_000_000, "mps": 500_000_000, "cuda": 2_000_000_000}
"""Host memory of Python, PyTorch and its libraries before any weight, by kind of device; an allowance."""

CONTEXT_BYTES = {"cpu": 0, "mps": 500_000_000, "cuda": 800_000_000}
"""Device memory of the driver's context, kernels and the workspaces of the matrix libraries; an allowance."""


def plans_for(needs: ModelNeeds, machine: Machine, dtype: torch.dtype | None = None) -> list[Plan]:
    """Every way of running the model on every device and on the CPU, fitting or not, the preferred ones first.

    Ways that offload blocks are listed for a GPU that cannot hold the transformer.

    Args:
        needs: of the model at the size asked for.
        machine: what there is.
        dtype: what to run in; None chooses for each device.
    """
    plans: list[Plan] = []
    for device in (*machine.devices, None):
        chosen, why = (dtype, "as asked") if dtype else preferred_dtype(needs, device)
        if device is None or device.shares_host_memory:
            ways = _shared_memory_plans(needs, device, chosen)
        else:
            ways = _own_memory_plans(needs, device, chosen)
        reasons = [f"{name_of(chosen)}: {why}"]
        if device is None:
            number, cause = threads_for(needs.num_parameters, machine.num_cores)
            ways = [replace(plan, num_threads=number) for plan in ways]
            reasons.append(f"{number} thread{'s' * (number > 1)}: {cause}")
        plans += [_judged(plan, device, machine, reasons) for plan in ways]
    return plans


def preferred_dtype(needs: ModelNeeds, device: Device | None) -> tuple[torch.dtype, str]:
    """What the model runs in on a device, or on the CPU (None), and why."""
    if device is None and needs.num_parameters > LARGE_PARAMETERS:
        return torch.bfloat16, "half the memory; on a CPU a model of this size takes minutes to hours for each chunk"
    if device is None:
        return torch.float32, "exact, and this model is small"
    if device.has_bf16:
        return torch.bfloat16, "what the models were trained in"
    return torch.float16, f"{device.label} has no bfloat16"


@dataclass(frozen=True)
class _Pieces:
    """Bytes that plans are made of, in one dtype on one kind of device.

    `transformer` and `text_encoder` are weights; `kept` is the autoencoder and the tables of text and history;
    `forward`, `decoding` and `encoding` (of a prompt) are activations, of which only one is alive at a time.
    """

    transformer: int
    text_encoder: int
    kept: int
    forward: int
    decoding: int
    encoding: int
    context: int
    runtime: int

    @property
    def making(self) -> int:
        """What making chunks takes beside the transformer's weights."""
        return self.kept + max(self.forward, self.decoding)


def _pieces(needs: ModelNeeds, kind: str, dtype: torch.dtype) -> _Pieces:
    forward = needs.transformer_bytes(dtype) + (needs.score_bytes(dtype) if kind == "mps" else 0)
    tables = needs.text_table_bytes(dtype) + needs.history_table_bytes(dtype)
    return _Pieces(
        transformer=needs.transformer.weights.bytes_in(dtype),
        text_encoder=needs.text_encoder.weights.bytes_in(dtype),
        kept=needs.vae.weights.bytes_in(torch.float32) + tables,
        forward=forward,
        decoding=needs.decode_bytes(),
        encoding=needs.encode_bytes(dtype),
        context=CONTEXT_BYTES[kind],
        runtime=RUNTIME_BYTES[kind],
    )


def _shared_memory_plans(needs: ModelNeeds, device: Device | None, dtype: torch.dtype) -> list[Plan]:
    """Ways on the CPU (None), or on a GPU that uses the CPU's memory: there, offloading to the host gains nothing."""
    name = device.name if device else "cpu"
    p = _pieces(needs, device.kind if device else "cpu", dtype)
    together = p.transformer + p.text_encoder + max(p.making, p.encoding)
    in_turn = max(p.transformer + p.making, p.text_encoder + p.encoding)
    int8 = max(_int8_bytes(needs, dtype) + p.making, p.text_encoder + p.encoding)
    ways: tuple[tuple[Way, int], ...] = (
        ("whole", together),
        ("text encoder released", in_turn),
        ("int8 weights", int8),
    )
    return [
        Plan(
            way=way,
            device=name,
            text_device=name,
            dtype=dtype,
            resident_blocks=needs.transformer.num_blocks,
            device_bytes=p.context + size if device else 0,
            host_bytes=p.runtime + p.context + size,
            is_exact=way != "int8 weights",
        )
        for way, size in ways
    ]


def _own_memory_plans(needs: ModelNeeds, device: Device, dtype: torch.dtype) -> list[Plan]:
    """Ways on a GPU with memory of its own."""
    p = _pieces(needs, device.kind, dtype)
    whole = Plan(
        way="whole",
        device=device.name,
        text_device=device.name,
        dtype=dtype,
        resident_blocks=needs.transformer.num_blocks,
        device_bytes=p.context + p.transformer + p.text_encoder + max(p.making, p.encoding),
        host_bytes=p.runtime,
    )
    offloaded = replace(
        whole,
        way="text encoder offloaded",
        text_device="cpu",
        device_bytes=p.context + p.transformer + p.making,
        host_bytes=p.runtime + p.text_encoder + p.encoding,
    )
    first = _encoding_plan(whole, p, device)
    released = _after(first, "text encoder released", p.context + p.making + p.transformer, p.runtime)
    int8 = _int8_bytes(needs, dtype)
    rounded = replace(_after(first, "int8 weights", p.context + p.making + int8, p.runtime), is_exact=False)
    return [whole, offloaded, released, *_streamed_plans(first, p, needs.transformer, device), rounded]


def _int8_bytes(needs: ModelNeeds, dtype: torch.dtype) -> int:
    """The transformer with rounded matrices; one block at a time is rounded, so one is there in both forms."""
    return needs.transformer.int8_bytes(dtype) + needs.transformer.largest_block.bytes_in(dtype)


def _encoding_plan(whole: Plan, p: _Pieces, device: Device) -> Plan:
    """Encoding the prompts alone, before the transformer is loaded: on the device if it fits there, else on the CPU."""
    on_device = p.context + p.text_encoder + p.encoding
    if on_device <= device.free_bytes:
        return replace(whole, device_bytes=on_device, host_bytes=p.runtime)
    return replace(whole, text_device="cpu", device_bytes=0, host_bytes=p.runtime + p.text_encoder + p.encoding)


def _after(first: Plan, way: Way, device_bytes: int, host_bytes: int) -> Plan:
    """A plan that encodes as `first` does, frees all of that, and then takes this much."""
    return replace(
        first,
        way=way,
        device_bytes=max(first.device_bytes, device_bytes),
        host_bytes=max(first.host_bytes, host_bytes),
    )


def _streamed_plans(first: Plan, p: _Pieces, part: PartNeeds, device: Device) -> list[Plan]:
    """Ways that keep as many blocks on the device as fit and bring the others there in every step."""
    blocks, block = part.blocks.bytes_in(first.dtype), part.largest_block.bytes_in(first.dtype)
    if not part.num_blocks or p.context + p.making + p.transformer <= device.free_bytes:
        return []
    fixed = p.context + p.kept + p.transformer - blocks
    # Blocks are in flight during a forward pass only, so decoding has their place.
    active = max(p.forward + BLOCKS_IN_FLIGHT * block, p.decoding)
    resident = max(0, min((device.free_bytes - fixed - active) // block, part.num_blocks - BLOCKS_IN_FLIGHT))
    waiting = (part.num_blocks - resident) * block
    on_device = fixed + resident * block + active
    # While loading, the block that is being moved to its stretch of page-locked memory is there twice.
    on_host = _after(first, "blocks offloaded", on_device, p.runtime + waiting + block)
    on_disk = _after(first, "blocks on disk", on_device, p.runtime + BLOCKS_IN_FLIGHT * block)
    return [replace(plan, resident_blocks=resident) for plan in (on_host, on_disk)]


def _judged(plan: Plan, device: Device | None, machine: Machine, reasons: Sequence[str]) -> Plan:
    """The plan with what it lacks on this machine, and its reasons."""
    host = "host memory within the container's limit" if machine.is_limited else "host memory"
    resources = [
        (f"memory on {plan.device}", plan.device_bytes, device.free_bytes if device else 0),
        (host, plan.host_bytes, machine.host_free_bytes),
    ]
    return replace(
        plan,
        shortfalls=tuple(Shortfall(*resource) for resource in resources if resource[1] > resource[2]),
        reasons=(WAYS[plan.way], *reasons),
    )
