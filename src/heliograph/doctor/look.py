"""Look at the software, the processor and a model; no weights are loaded, nothing is downloaded."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from importlib.util import find_spec

import av
import torch

from heliograph.checkpoint import RELEASED, RELEASED_SIZE, ModelFolder, latent_stride, native_size
from heliograph.config import SamplerConfig
from heliograph.doctor.parts import CPU_FEATURES, Cpu, Kernel, ModelReport, Software
from heliograph.doctor.runners import timed_runners, times_runners
from heliograph.engine.attention import (
    CUDNN_8_BIT,
    EXACT_KERNELS,
    LOCAL_KERNELS,
    PROBE_SHAPE,
    Probe,
    fastest,
    lacking,
    probe_all,
)
from heliograph.engine.machine import Machine
from heliograph.engine.needs import ModelNeeds, Workload, needs_of, released_needs, workload_of
from heliograph.engine.placement import plans_for
from heliograph.engine.plan import choose
from heliograph.errors import UserError
from heliograph.kernels import cudnn_attention
from heliograph.kernels.onednn import fused_linear
from heliograph.presets import BASE, DISTILLED, MID, schedule_for
from heliograph.shapes import check_size

PACKAGES = {"torch": "torch", "diffusers": "diffusers", "transformers": "transformers", "PyAV": "av"}
"""Libraries whose versions matter, and their packages."""


H264_ENCODER = "libx264"
"""The encoder that mp4 files and live streams are made with."""


RELEASED_SAMPLERS: Mapping[str, SamplerConfig] = dict(zip(RELEASED, (BASE, MID, DISTILLED), strict=True))
"""How each released model is sampled."""


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
    KernelNeeds(CUDNN_8_BIT, cudnn_attention.PACKAGE, cudnn_attention.LEAST_CAPABILITY),
    KernelNeeds("sage", "sageattention", (8, 0)),
    KernelNeeds("xformers", "xformers", (7, 0)),
)
"""Attention kernels of other packages."""


def this_software(machine: Machine) -> Software:
    """Versions, whether mp4 can be written, and the attention kernels."""
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
    probes = probe_all(LOCAL_KERNELS, place, dtype, PROBE_SHAPE)
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
    missing = [] if fits else [f"an NVIDIA GPU of compute capability {wanted}"]
    missing += [] if find_spec(needs.package) else [lacking(needs.package)]
    return Kernel(needs.name, not missing, f"needs {' and '.join(missing)}" if missing else "installed")


def this_cpu() -> Cpu:
    """What PyTorch knows of the processor; older versions have no table of its features."""
    if not hasattr(torch.cpu, "get_capabilities"):
        return Cpu(platform.processor() or platform.machine(), None, fused_linear() is not None)
    known = torch.cpu.get_capabilities()
    features = tuple(name for name, key in CPU_FEATURES.items() if known.get(key))
    name = str(known.get("cpu_name") or platform.processor() or platform.machine())
    return Cpu(name, features, fused_linear() is not None)


def found_model(name: str, folder: ModelFolder, asked: tuple[int | None, int | None], machine: Machine) -> ModelReport:
    """A model that is here, for a video of the size `asked` for (height, width; None is its own)."""
    native = native_size(folder.path)
    height, width = asked[0] or native[0], asked[1] or native[1]
    check_size(height, width, schedule_for(folder.scheduler_config).num_levels, latent_stride(folder.path))
    needs = needs_of(folder, workload_of(folder, height, width))
    report = _judged(name, needs, machine)
    can_choose = report.chosen is not None and times_runners(report.chosen, needs)
    runners = timed_runners(folder, report.chosen, needs) if report.chosen and can_choose else ()
    return replace(report, path=folder.path, is_random=folder.is_random, runners=runners)


def absent_model(name: str, asked: tuple[int | None, int | None], machine: Machine) -> ModelReport:
    """A model that is not: what is known of the released ones."""
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
