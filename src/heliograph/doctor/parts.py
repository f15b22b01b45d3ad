"""What the report of `heliograph doctor` is made of."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from heliograph.engine.needs import ModelNeeds
from heliograph.engine.plan import Plan
from heliograph.shapes import CHUNK_FRAMES, FPS

CPU_FEATURES = {"AVX-512": "avx512_f", "AVX-512 bfloat16": "avx512_bf16", "AMX": "amx_tile"}
"""What speeds up matrix arithmetic on a CPU, and PyTorch's names of it."""


PART_NAMES = {"transformer": "transformer", "text_encoder": "text encoder", "vae": "autoencoder"}
"""The parts that have weights, and what to call them."""


@dataclass(frozen=True)
class Kernel:
    """An attention kernel, by diffusers' name: whether it can be used here, and what it needs or what is missing."""

    name: str
    is_available: bool
    note: str


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
class RunnerTime:
    """A runner: the seconds that it prepares once in every process, and those of a chunk without its decoding."""

    name: str
    prepare_seconds: float
    chunk_seconds: float


def pays_from(usual: RunnerTime, other: RunnerTime) -> float | None:
    """Seconds of video from which on `other` is done first; None where it never is."""
    saved = usual.chunk_seconds - other.chunk_seconds
    chunks = (other.prepare_seconds - usual.prepare_seconds) / saved if saved > 0 else None
    return None if chunks is None else max(0.0, chunks) * CHUNK_FRAMES / FPS


@dataclass(frozen=True)
class ModelReport:
    """A model and its ways of running.

    `path` is None for a model that is not on this machine, `needs` is None where nothing is known about it, `chosen` is
    what `--device auto` takes and None when nothing fits; `problem` says why. `runners` were measured, the usual one
    first, where there is a choice.
    """

    name: str
    path: Path | None = None
    is_random: bool = False
    needs: ModelNeeds | None = None
    plans: tuple[Plan, ...] = ()
    chosen: Plan | None = None
    problem: str | None = None
    runners: tuple[RunnerTime, ...] = ()


def num_parameters(needs: ModelNeeds) -> dict[str, int]:
    """Parameters of each part, by the keys of `PART_NAMES`."""
    return {part: getattr(needs, part).weights.num_parameters for part in PART_NAMES}
