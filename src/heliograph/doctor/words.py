"""The report in plain words."""

from collections.abc import Mapping, Sequence

import torch

from heliograph.doctor.look import H264_ENCODER
from heliograph.doctor.parts import (
    CPU_FEATURES,
    PART_NAMES,
    Cpu,
    ModelReport,
    RunnerTime,
    Software,
    num_parameters,
    pays_from,
)
from heliograph.engine.machine import Device, Machine
from heliograph.engine.needs import ModelNeeds
from heliograph.engine.plan import Plan, name_of, readable

PRODUCTS = {True: "oneDNN, activations fused in", False: "PyTorch's own: this build has no oneDNN, which is faster"}
"""What multiplies matrices on the CPU."""


RELEASED_DOWNLOAD_BYTES = 81_000_000_000
"""Size of a released model's files: float32 transformer and text encoder, autoencoder, tokenizer."""


def software_lines(software: Software) -> list[str]:
    """Versions, the encoder, attention kernels."""
    versions = ", ".join(f"{name} {version}" for name, version in software.versions.items())
    h264 = (
        "yes"
        if software.has_h264
        else f"no: PyAV has no {H264_ENCODER}, so mp4 cannot be written; install av from a wheel"
    )
    return [
        "Software",
        f"  versions   {versions}",
        f"  H.264      {h264}",
        *(
            f"  attention  {kernel.name}: {'yes' if kernel.is_available else 'no'}, {kernel.note}"
            for kernel in software.kernels
        ),
    ]


def machine_lines(cpu: Cpu, machine: Machine) -> list[str]:
    """Processor, memory, disk, GPUs."""
    if cpu.features is None:
        features = "this PyTorch does not tell its features"
    else:
        features = ", ".join(cpu.features) or f"none of {', '.join(CPU_FEATURES)}"
    return [
        "Machine",
        f"  CPU        {cpu.name}, {machine.num_cores} cores for this process, {features}",
        f"  products   {PRODUCTS[cpu.has_fused_products]}",
        f"  memory     {_memory(machine)}",
        f"  disk       {readable(machine.disk_free_bytes)} free",
        *(f"  GPU        {_device(device)}" for device in machine.devices),
        *([] if machine.devices else ["  GPU        none that PyTorch can use"]),
    ]


def _memory(machine: Machine) -> str:
    text = f"{readable(machine.host_total_bytes)}, {readable(machine.host_free_bytes)} free"
    if machine.container is None or not machine.is_limited:
        return text
    limit, used = readable(machine.container.limit_bytes), readable(machine.container.used_bytes)
    return f"{text}: this container may use {limit}, of which {used} are taken"


def _device(device: Device) -> str:
    capability = "" if device.capability is None else ", compute capability {}.{}".format(*device.capability)
    memory = f"{readable(device.free_bytes)} of {readable(device.total_bytes)} free"
    shared = ", shared with the CPU" if device.shares_host_memory else ""
    return f"{device.name}: {device.label}{capability}, {memory}{shared}, bfloat16 {'yes' if device.has_bf16 else 'no'}"


def model_lines(model: ModelReport, machine: Machine) -> list[str]:
    """Where the model is, what it needs, the ways to run it, and the one that is taken."""
    lines = [f"Model {model.name}", f"  found      {_where(model, machine)}"]
    if model.is_random:
        lines.append("  weights    random: this model was never trained, and what it makes is noise")
    if model.needs is not None:
        dtype = model.chosen.dtype if model.chosen else torch.bfloat16
        lines += [*_need_lines(model.needs, dtype), "Ways to run it"]
        lines += [f"  {_plan_line(plan, model.needs.transformer.num_blocks)}" for plan in model.plans]
    if model.chosen is None:
        return [*lines, "Result", f"  {model.problem}"]
    return [
        *lines,
        "Result",
        f"  --device auto takes {_title(model.chosen)}",
        *(f"  {r}" for r in model.chosen.reasons),
        *_runner_lines(model.runners),
    ]


def _runner_lines(runners: Sequence[RunnerTime]) -> list[str]:
    """The runners that were timed, and from what length on the others pay."""
    if not runners:
        return []
    usual, *others = runners
    lines = [
        f"  --runner auto takes {usual.name}: {1000 * usual.chunk_seconds:.0f} ms for a chunk without its decoding"
    ]
    for other in others:
        seconds = pays_from(usual, other)
        pays = "slower here" if seconds is None else f"it pays from {seconds:.0f} s of video in one process on"
        lines.append(
            f"  --runner {other.name}: {1000 * other.chunk_seconds:.0f} ms, after {other.prepare_seconds:.1f} s of "
            f"preparation; {pays}"
        )
    return lines


def _where(model: ModelReport, machine: Machine) -> str:
    if model.path is not None:
        return str(model.path)
    if model.needs is None:
        return "no"
    enough = "enough" if machine.disk_free_bytes > RELEASED_DOWNLOAD_BYTES else "too little"
    return (
        f"not downloaded; its files are about {RELEASED_DOWNLOAD_BYTES / 1e9:.0f} GB, and "
        f"{readable(machine.disk_free_bytes)} of disk are free: {enough}. The numbers below are those of the release"
    )


def _need_lines(needs: ModelNeeds, dtype: torch.dtype) -> list[str]:
    work = needs.work
    counts = {PART_NAMES[part]: _count(number) for part, number in num_parameters(needs).items()}
    weights = {
        "transformer": readable(needs.transformer.weights.bytes_in(dtype)),
        "text encoder": readable(needs.text_encoder.weights.bytes_in(dtype)),
        "autoencoder (float32)": readable(needs.vae.weights.bytes_in(torch.float32)),
    }
    chunk = {
        "forward pass": readable(needs.transformer_bytes(dtype)),
        "decoding": readable(needs.decode_bytes()),
        f"keys of {work.num_prompts} prompt(s)": readable(needs.text_table_bytes(dtype)),
    }
    return [
        f"  parameters {_pairs(counts)}",
        f"  {name_of(dtype):10} {_pairs(weights)}",
        f"  a chunk    of {work.height}x{work.width} pixels, {work.num_tokens} tokens: at most {_pairs(chunk)}",
    ]


def _pairs(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _count(number: int) -> str:
    """14312427584 as `14.31 B`, 126892531 as `126.89 M`."""
    for size, unit in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.2f}{unit}"
    return str(number)


def _title(plan: Plan) -> str:
    return f"{plan.device}, {plan.way}, {name_of(plan.dtype)}"


def _plan_line(plan: Plan, num_blocks: int) -> str:
    own_memory = plan.device not in ("cpu", "mps")
    on_device = f"{readable(plan.device_bytes)} on the GPU, " if own_memory else ""
    blocks = f", {plan.resident_blocks} of {num_blocks} blocks stay on the GPU" if "blocks" in plan.way else ""
    return f"{_title(plan)}{blocks}: {on_device}{readable(plan.host_bytes)} of host memory: {plan.obstacle or 'fits'}"
