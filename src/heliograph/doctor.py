"""What this machine can run and why: the report of `heliograph doctor`. Loads no weights and downloads nothing."""

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import av
import torch

from heliograph.checkpoint import (
    RELEASED,
    RELEASED_SIZE,
    ModelFolder,
    default_cache,
    find_local,
    native_size,
    read_folder,
)
from heliograph.config import SamplerConfig
from heliograph.engine.attention import EXACT_KERNELS, PROBE_SHAPE, ROUNDED_KERNELS, Probe, fastest, probe_all
from heliograph.engine.machine import Device, Machine, this_machine
from heliograph.engine.needs import ModelNeeds, Workload, needs_of, released_needs, workload_of
from heliograph.engine.placement import Plan, choose, name_of, plans_for, readable
from heliograph.errors import UserError
from heliograph.kernels.onednn import fused_linear
from heliograph.presets import BASE, DISTILLED, MID, schedule_for
from heliograph.shapes import check_size

PACKAGES = {"torch": "torch", "diffusers": "diffusers", "transformers": "transformers", "PyAV": "av"}
"""Libraries whose versions matter, and their packages."""

H264_ENCODER = "libx264"
"""The encoder that mp4 files and live streams are made with."""

CPU_FEATURES = {"AVX-512": "avx512_f", "AVX-512 bfloat16": "avx512_bf16", "AMX": "amx_tile"}
"""What speeds up matrix arithmetic on a CPU, and PyTorch's names of it."""

PRODUCTS = {True: "oneDNN, activations fused in", False: "PyTorch's own: this build has no oneDNN, which is faster"}
"""What multiplies matrices on the CPU."""

RELEASED_SAMPLERS: Mapping[str, SamplerConfig] = dict(zip(RELEASED, (BASE, MID, DISTILLED), strict=True))
"""How each released model is sampled."""

PART_NAMES = {"transformer": "transformer", "text_encoder": "text encoder", "vae": "autoencoder"}
"""The parts that have weights, and what to call them."""

RELEASED_DOWNLOAD_BYTES = 81_000_000_000
"""Size of a released model's files: float32 transformer and text encoder, autoencoder, tokenizer."""


@dataclass(frozen=True)
class Kernel:
    """An attention kernel, by diffusers' name: whether it can be used here, and what it needs or what is missing."""

    name: str
    is_available: bool
    note: str


@dataclass(frozen=True)
class KernelNeeds:
    """What an attention kernel needs: a package, and a GPU of at least (or exactly) this compute capability."""

    name: str
    package: str
    capability: tuple[int, int]
    is_exact: bool = False


KERNELS = (
    KernelNeeds("flash", "flash_attn", (8, 0)),
    KernelNeeds("_flash_3", "flash_attn_interface", (9, 0), is_exact=True),
    KernelNeeds("sage", "sageattention", (8, 0)),
    KernelNeeds("xformers", "xformers", (7, 0)),
)
"""Attention kernels of other packages."""


@dataclass(frozen=True)
class Software:
    """Versions by name, whether mp4 can be encoded, and the attention kernels."""

    versions: Mapping[str, str]
    has_h264: bool
    kernels: tuple[Kernel, ...]


@dataclass(frozen=True)
class Cpu:
    """The processor: its name, and which of `CPU_FEATURES` it has; None where this PyTorch cannot say.

    `has_fused_products` says whether matrix products go through oneDNN with what follows them fused in.
    """

    name: str
    features: tuple[str, ...] | None
    has_fused_products: bool = False


@dataclass(frozen=True)
class ModelReport:
    """A model and its ways of running.

    `path` is None for a model that is not on this machine, `needs` is None where nothing is known about it, `chosen` is
    what `--device auto` takes and None when nothing fits; `problem` says why.
    """

    name: str
    path: Path | None = None
    is_random: bool = False
    needs: ModelNeeds | None = None
    plans: tuple[Plan, ...] = ()
    chosen: Plan | None = None
    problem: str | None = None


@dataclass(frozen=True)
class DoctorReport:
    """All that `heliograph doctor` says."""

    software: Software
    cpu: Cpu
    machine: Machine
    model: ModelReport

    def lines(self) -> list[str]:
        """The report in plain words, a line each."""
        return [
            *_software_lines(self.software),
            *_machine_lines(self.cpu, self.machine),
            *_model_lines(self.model, self.machine),
        ]

    def as_json(self) -> dict[str, Any]:
        """The report as numbers, strings, lists and tables; sizes are bytes."""
        model = self.model
        return {
            "software": asdict(self.software),
            "cpu": asdict(self.cpu) | {"num_cores": self.machine.num_cores},
            "machine": asdict(self.machine) | {"host_free_bytes": self.machine.host_free_bytes},
            "model": {
                "name": model.name,
                "path": None if model.path is None else str(model.path),
                "is_random": model.is_random,
                "size": None if model.needs is None else [model.needs.work.height, model.needs.work.width],
                "num_parameters": None if model.needs is None else _parameters(model.needs),
                "plans": [_plan_json(plan) for plan in model.plans],
                "chosen": None if model.chosen is None else _plan_json(model.chosen),
                "problem": model.problem,
            },
        }


def doctor_report(model: str = "tiny", height: int | None = None, width: int | None = None) -> DoctorReport:
    """Look at the software, the machine and a model.

    Args:
        model: `tiny`, a folder, or a hub id. A released model that was not downloaded is judged by its known numbers.
        height: pixels of the video to plan for; None is what the model was trained at.
        width: likewise.

    Raises:
        CheckpointError: there is no such model here and it is no hub id, or its folder is damaged.
        UserError: the model cannot make a video of this size.
    """
    path = find_local(model)
    machine = this_machine(path or next(p for p in default_cache().parents if p.is_dir()))
    asked = height, width
    return DoctorReport(
        software=_software(machine),
        cpu=this_cpu(),
        machine=machine,
        model=_found_model(model, read_folder(path), asked, machine) if path else _absent_model(model, asked, machine),
    )


# Looking


def _software(machine: Machine) -> Software:
    return Software(
        versions={"python": platform.python_version()} | {name: metadata.version(p) for name, p in PACKAGES.items()},
        has_h264=H264_ENCODER in av.codecs_available,
        kernels=_kernels(machine),
    )


def _kernels(machine: Machine) -> tuple[Kernel, ...]:
    """Attention kernels: tried out where there is a CUDA device, else what they would need."""
    device = next((device for device in machine.devices if device.kind == "cuda"), None)
    if device is None or not torch.cuda.is_available():  # a machine that is only described has nothing to try
        own = Kernel("native", is_available=True, note="PyTorch's own, the only one without an NVIDIA GPU")
        return own, *(_kernel(needs, machine) for needs in KERNELS)
    place, dtype = torch.device(device.name), torch.bfloat16 if device.has_bf16 else torch.float16
    local = [kernel for kernel in (*EXACT_KERNELS, *ROUNDED_KERNELS) if kernel.package != "kernels"]
    probes = probe_all(local, place, dtype, PROBE_SHAPE)
    best = fastest([probe for probe in probes if probe.name in {kernel.name for kernel in EXACT_KERNELS}])
    return tuple(_probed(probe, is_taken=probe is best) for probe in probes)


def _probed(probe: Probe, *, is_taken: bool) -> Kernel:
    if probe.seconds is None:
        return Kernel(probe.name, is_available=False, note=probe.problem or "")
    taken = ", the one that is taken" if is_taken else ""
    tokens = f"{1000 * probe.seconds:.2f} ms for {PROBE_SHAPE[1]} tokens of the 14B model"
    return Kernel(probe.name, is_available=True, note=f"{tokens}{taken}")


def _kernel(needs: KernelNeeds, machine: Machine) -> Kernel:
    capabilities = [device.capability for device in machine.devices if device.capability is not None]
    if needs.is_exact:
        fits, wanted = any(c[0] == needs.capability[0] for c in capabilities), f"{needs.capability[0]}.x"
    else:
        fits, wanted = any(c >= needs.capability for c in capabilities), "{}.{} or newer".format(*needs.capability)
    lacking = [] if fits else [f"an NVIDIA GPU of compute capability {wanted}"]
    lacking += [] if find_spec(needs.package) else [f"the package {needs.package}"]
    return Kernel(needs.name, not lacking, f"needs {' and '.join(lacking)}" if lacking else "installed")


def this_cpu() -> Cpu:
    """What PyTorch knows of the processor; older versions have no table of its features."""
    if not hasattr(torch.cpu, "get_capabilities"):
        return Cpu(platform.processor() or platform.machine(), None, fused_linear() is not None)
    known = torch.cpu.get_capabilities()
    features = tuple(name for name, key in CPU_FEATURES.items() if known.get(key))
    name = str(known.get("cpu_name") or platform.processor() or platform.machine())
    return Cpu(name, features, fused_linear() is not None)


def _found_model(name: str, folder: ModelFolder, asked: tuple[int | None, int | None], machine: Machine) -> ModelReport:
    native = native_size(folder.path)
    height, width = asked[0] or native[0], asked[1] or native[1]
    check_size(height, width, schedule_for(folder.scheduler_config).num_levels)
    needs = needs_of(folder, workload_of(folder, height, width))
    return replace(_judged(name, needs, machine), path=folder.path, is_random=folder.is_random)


def _absent_model(name: str, asked: tuple[int | None, int | None], machine: Machine) -> ModelReport:
    sampler = RELEASED_SAMPLERS.get(name)
    if sampler is None:
        problem = (
            f"{name} is not on this machine and is no released model, so nothing is known of it; it would have to be "
            "downloaded first, which the first video made with it does"
        )
        return ModelReport(name, problem=problem)
    height, width = asked[0] or RELEASED_SIZE[0], asked[1] or RELEASED_SIZE[1]
    check_size(height, width, sampler.schedule.num_levels)
    work = Workload(height, width, num_prompts=2 if sampler.guidance.is_on else 1)
    return _judged(name, released_needs(work), machine)


def _judged(name: str, needs: ModelNeeds, machine: Machine) -> ModelReport:
    """Every way of running a model with these needs, and the one that would be taken."""
    plans = plans_for(needs, machine)
    report = ModelReport(name, needs=needs, plans=tuple(plans))
    try:
        return replace(report, chosen=choose(plans))
    except UserError as error:
        return replace(report, problem=str(error))


# Saying


def _software_lines(software: Software) -> list[str]:
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


def _machine_lines(cpu: Cpu, machine: Machine) -> list[str]:
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


def _model_lines(model: ModelReport, machine: Machine) -> list[str]:
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
    ]


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
    counts = {PART_NAMES[part]: _count(number) for part, number in _parameters(needs).items()}
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


def _parameters(needs: ModelNeeds) -> dict[str, int]:
    return {part: getattr(needs, part).weights.num_parameters for part in PART_NAMES}


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


def _plan_json(plan: Plan) -> dict[str, Any]:
    """The plan with its dtype as a name and what it lacks in words and numbers."""
    return asdict(plan) | {"dtype": name_of(plan.dtype), "fits": plan.fits, "obstacle": plan.obstacle}
