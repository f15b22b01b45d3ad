"""What varies, as frozen and complete values: what the weights fix, what the user asks, what the machine allows.

Imports no torch, so that the command line can check a request before anything heavy is loaded.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from heliograph.errors import UserError

SolverName = Literal["euler", "unipc", "few_step"]
TimeShift = Literal["constant", "linear", "exponential"]
BlockNoiseSource = Literal["request", "fixed"]
Positions = Literal["relative", "absolute"]
HistoryReuse = Literal["off", "level", "chunk"]
Runner = Literal["auto", "eager", "graph", "compile", "openvino"]
SpeedMode = Literal["exact", "fast"]


@dataclass(frozen=True)
class ScheduleConfig:
    """The part of sampling that was fixed in training; read from `scheduler/scheduler_config.json`.

    `borders` divide the noise levels 1 → 0 among the pyramid levels (fractions, from 0 to 1, one more than there are
    levels); `gamma` is the correlation of block noise, above 0 and at most 1/3; `time_shift` says whether the shift is
    the constant `shift` or grows with the number of tokens from `base_shift` at `base_tokens` to `max_shift` at
    `max_tokens` (directly, or as its exponential).
    """

    solver: SolverName
    borders: tuple[float, ...]
    gamma: float
    time_shift: TimeShift
    shift: float = 1.0
    num_train_timesteps: int = 1000
    base_tokens: int = 256
    max_tokens: int = 4096
    base_shift: float = 0.5
    max_shift: float = 1.15

    @property
    def num_levels(self) -> int:
        """Number of resolutions; 1 is ordinary flow sampling."""
        return len(self.borders) - 1

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.borders, self.borders[1:], strict=False))
        if len(self.borders) < 2 or self.borders[0] != 0 or self.borders[-1] != 1 or not rising:
            raise UserError(f"borders={self.borders} do not divide 0 to 1; use for example (0, 1/3, 2/3, 1)")
        if not 0 < self.gamma <= 1 / 3 + 1e-9:
            raise UserError(f"gamma={self.gamma} gives no covariance; use a value above 0, at most 1/3")
        if not 0 < self.shift < math.inf or self.num_train_timesteps < 2 or self.max_tokens <= self.base_tokens:
            raise UserError(f"the schedule {self} has a value out of range; compare it with the released configuration")


@dataclass(frozen=True)
class Guidance:
    """How the prompt is weighed against the negative prompt.

    `scale` w combines u + w·(c − u); 1 runs the conditional branch alone. `cfg_zero_star` projects the unconditional
    branch first, and then `zero_init_steps` first steps of a chunk have velocity zero. `levels` is how many pyramid
    levels, coarse ones first, are guided; None is all of them. What is asked for is decided on the coarse ones, and
    each step without guidance costs half (guidance in an interval of the noise: Kynkäänniemi et al., arXiv 2404.07724).
    """

    scale: float = 1.0
    method: Literal["cfg", "cfg_zero_star"] = "cfg"
    zero_init_steps: int = 0
    levels: int | None = None

    @property
    def is_on(self) -> bool:
        """Whether the negative prompt is used at all."""
        return self.scale > 1.0

    def on_level(self, level: int) -> "Guidance":
        """Guidance as it is on the level of this index, 0 the coarsest."""
        return self if self.levels is None or level < self.levels else replace(self, scale=1.0)

    def __post_init__(self) -> None:
        if self.levels is not None and self.levels < 1:
            raise UserError(f"guided_levels={self.levels} guides nothing; use 1 or more, or guidance_scale=1")
        if not math.isfinite(self.scale) or not 0 <= self.scale <= 100:
            raise UserError(f"guidance_scale={self.scale} is out of range; use up to 100; 1 or less turns guidance off")
        if self.zero_init_steps < 0:
            raise UserError(f"zero_init_steps={self.zero_init_steps} is negative; use 0 or more")


@dataclass(frozen=True)
class SamplerConfig:
    """How one chunk is made: the schedule, the number of steps on each pyramid level, and guidance.

    `first_chunk_steps` are the steps of chunk 0 (the first-chunk boost); None means as every other chunk.
    """

    schedule: ScheduleConfig
    steps: tuple[int, ...]
    first_chunk_steps: tuple[int, ...] | None
    guidance: Guidance
    block_noise: BlockNoiseSource = "request"

    def steps_for(self, chunk: int) -> tuple[int, ...]:
        """Steps on each level for the chunk of this index."""
        return self.first_chunk_steps if chunk == 0 and self.first_chunk_steps else self.steps

    def __post_init__(self) -> None:
        for steps in (self.steps,) if self.first_chunk_steps is None else (self.steps, self.first_chunk_steps):
            if len(steps) != self.schedule.num_levels:
                raise UserError(
                    f"steps={','.join(map(str, steps))} names {len(steps)} level(s), but this model has "
                    f"{self.schedule.num_levels}; give {self.schedule.num_levels} numbers, separated by commas"
                )
            if not all(1 <= n <= 1000 for n in steps):
                raise UserError(f"steps={','.join(map(str, steps))} is out of range; use 1 to 1000 on each level")
        if self.guidance.levels is not None and self.guidance.levels > self.schedule.num_levels:
            raise UserError(
                f"guided_levels={self.guidance.levels}, but this model has {self.schedule.num_levels} level(s); "
                f"use 1 to {self.schedule.num_levels}"
            )


@dataclass(frozen=True)
class MemoryConfig:
    """How many latent frames the model remembers in each tier, and whether the anchor frame is kept beside them.

    `positions` are "relative" to the model's window, the same for every chunk (Helios), or "absolute", counted from the
    start of the video, as an arm to compare with: then a long video leaves the positions that training showed.
    """

    long: int = 16
    mid: int = 2
    short: int = 1
    keeps_anchor: bool = True
    positions: Positions = "relative"

    @property
    def num_frames(self) -> int:
        """Latent frames in the three tiers, without the anchor."""
        return self.long + self.mid + self.short

    def __post_init__(self) -> None:
        if self.positions not in get_args(Positions):
            raise UserError(f"positions={self.positions!r}; use {' or '.join(get_args(Positions))}")
        if min(self.long, self.mid, self.short) < 1:
            raise UserError(f"history sizes {self.long}, {self.mid}, {self.short} are not all positive; use 16, 2, 1")


@dataclass(frozen=True)
class StartNoise:
    """Noise put on a given image or clip before it enters the history: more means more motion, less identity.

    Each of the two ranges of sigma is drawn from uniformly: `image` for the anchor frame, `video` for the newest frame
    of a still and for every frame of a clip. (0, 0) leaves the latents as encoded.
    """

    image: tuple[float, float] = (0.111, 0.135)
    video: tuple[float, float] = (0.111, 0.135)

    def __post_init__(self) -> None:
        for name, (low, high) in (("image", self.image), ("video", self.video)):
            if not 0 <= low <= high <= 1:
                raise UserError(
                    f"{name} noise range {low} to {high} is not inside 0 to 1; the default is 0.111 to 0.135"
                )


@dataclass(frozen=True)
class Lora:
    """A low-rank adapter for the transformer, and how strong it is.

    `source` is a safetensors file, a folder with one, or one on the hub as `org/name/file.safetensors`. A `strength` of
    1 is as it was trained, 0.5 half of it, and a negative one the opposite.
    """

    source: str
    strength: float = 1.0

    def __post_init__(self) -> None:
        if not self.source or not math.isfinite(self.strength):
            raise UserError(f"no adapter is {self.source!r} with strength {self.strength}; use a file and a number")


@dataclass(frozen=True)
class SpeedConfig:
    """How the machine is used, and what exactness is given up for speed.

    Exact: `runner` is how the transformer's kernels are launched ("auto" takes what measures fastest on a GPU, and on a
    CPU what needs no preparation), `attention` the
    kernel of attention by diffusers' name ("auto" takes the fastest exact one that works here), `vae_device` a device
    for the autoencoder alone.

    Approximate, each by itself: `fp8` multiplies in 8-bit floating point; `history_reuse` keeps the history's keys and
    values through a level's or a chunk's steps; `attention8` takes an 8-bit attention kernel. None leaves the choice to
    `mode`: "exact" switches all of them off, "fast" switches on what is faster on the device. `decoder` is a file with
    the weights of a small decoder in the place of the model's own, in either mode.
    """

    mode: SpeedMode = "exact"
    runner: Runner = "auto"
    attention: str = "auto"
    vae_device: str | None = None
    fp8: bool | None = None
    history_reuse: HistoryReuse | None = None
    attention8: bool | None = None
    decoder: Path | None = None

    def __post_init__(self) -> None:
        for name, value, known in (
            ("mode", self.mode, ("exact", "fast")),
            ("runner", self.runner, get_args(Runner)),
            ("history_reuse", self.history_reuse or "off", ("off", "level", "chunk")),
        ):
            if value not in known:
                raise UserError(f"{name}={value!r} is not known; use one of {', '.join(known)}")
        if self.attention8 and self.attention != "auto":
            raise UserError(f"attention8 and attention={self.attention!r} both choose a kernel; give one of them")

    @property
    def approximations(self) -> tuple[str, ...]:
        """What is approximated, in words; empty for an exact run."""
        reuse = self.history_reuse or "off"
        switches = {
            "8-bit floating point products": bool(self.fp8),
            f"history's keys and values kept through a {reuse}": reuse != "off",
            "8-bit attention": bool(self.attention8),
            "small decoder": self.decoder is not None,
        }
        return tuple(words for words, is_on in switches.items() if is_on)


EXACT = SpeedConfig()
"""The default: nothing is approximated."""
