"""Complete training configurations by name: the seven released phases, as corrected by their authors, and tiny ones.

Values are those of the released configurations (reference, table 6.1); numbers of steps, which no file records, are the
paper's. The `correct` presets are what the authors advise now: image starts are trained, and easy anti-drifting is on
completely. Every phase starts from the model folder that the one before it exported.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from heliograph.config import MemoryConfig
from heliograph.errors import UserError
from heliograph.shapes import check_size
from heliograph.train.adapt import AdaptConfig
from heliograph.train.adapter import AdapterConfig
from heliograph.train.corrupt import Corruption, PastConfig, StartMix
from heliograph.train.distill import DistillConfig
from heliograph.train.dmd import TimeDraw
from heliograph.train.ema import EmaConfig
from heliograph.train.export import Kind
from heliograph.train.gan import GanConfig, HeadSizes
from heliograph.train.idle import IdlePlace
from heliograph.train.loop import LoopConfig
from heliograph.train.multiscale import MultiscaleConfig
from heliograph.train.ode import OdeConfig
from heliograph.train.parallel import Layout
from heliograph.train.stage import Optimiser
from heliograph.train.start import NetworkSizes, StartPoint

StageConfig = AdaptConfig | MultiscaleConfig | OdeConfig | DistillConfig

WAN, BASE, MID = "Wan-AI/Wan2.1-T2V-14B-Diffusers", "BestWishYsh/Helios-Base", "BestWishYsh/Helios-Mid"
DISTILLED = "BestWishYsh/Helios-Distilled"

PATCHES = ("patch_short", "patch_mid", "patch_long")
"""The memory patches."""


NEGATIVE_PROMPT = (
    "Bright tones, overexposed, static, blurred details, subtitles, style, works, paintings, images, static, overall "
    "gray, worst quality, low quality, JPEG compression residue, ugly, incomplete, extra fingers, poorly drawn hands, "
    "poorly drawn faces, deformed, disfigured, misshapen limbs, fused fingers, still picture, messy background, three "
    "legs, many people in the background, walking backwards"
)
"""Wan's English negative prompt: what guidance leads away from in training."""


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run, but for where the data are and where the result goes.

    Attributes:
        stage: what is learned and how it is updated; its type says which of the stages it is.
        start: the network that is trained, and the model whose other parts the result keeps.
        adapter: what is trained of it; None trains all of it.
        loop: steps, accumulation, learning rate over time, checkpoints, seed.
        batch_size: examples per process and accumulated part.
        size: height and width of the videos in pixels.
        kind: what the result is sampled as.
        ema: averaging of the student, or None.
        scores, critic: for distillation, the backbone of teacher and critic, and the critic's adapter.
        network: sizes of a network that is trained from scratch; None trains that of `start`.
        trains_text: the text encoder is trained along (the data must then hold tokens, as the world's do).
        subject_weight: what a latent cell that shows a subject counts in the loss, where the data say which do.
        layout, scores_layout: how the student, and teacher and critic, are laid out over several processes. A
            student that is distilled takes another number of steps in every process, so it can only be replicated.
        saves_memory: blocks are computed again in the backward pass.
        idle: for distillation, where frozen weights are while the other network works: they `stay` on the device, or
            `leave` it for host memory, which costs time and saves the smaller backbone.
        memory: how much of the past is shown; the result is sampled with the same.
        prompts: what sample clips are made of.
    """

    name: str
    stage: StageConfig
    start: StartPoint
    adapter: AdapterConfig | None
    loop: LoopConfig
    batch_size: int
    kind: Kind
    size: tuple[int, int] = (384, 640)
    ema: EmaConfig | None = None
    scores: StartPoint | None = None
    critic: AdapterConfig | None = None
    network: NetworkSizes | None = None
    trains_text: bool = False
    subject_weight: float = 1.0
    layout: Layout = "shard"
    scores_layout: Layout = "shard"
    saves_memory: bool = True
    idle: IdlePlace = "stay"
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    prompts: tuple[str, ...] = ("a red fish swims to the left over a coral reef",)

    @property
    def num_groups(self) -> int:
        """Independent draws that a batch needs: one for each group of parameters."""
        return 2 if isinstance(self.stage, DistillConfig) else 1

    @property
    def has_muon(self) -> bool:
        """Whether matrices are updated by Muon."""
        stage = self.stage
        if isinstance(stage, DistillConfig):
            return stage.student_optimiser.has_muon or stage.critic_optimiser.has_muon
        return stage.optimiser.has_muon

    def __post_init__(self) -> None:
        is_distilled = isinstance(self.stage, DistillConfig)
        if self.batch_size < 1:
            raise UserError(f"{self.name}: batch_size={self.batch_size}; use 1 or more")
        check_size(*self.size, num_levels=1 if self.kind == "base" else 3)
        if is_distilled != (self.scores is not None and self.critic is not None):
            raise UserError(f"{self.name}: teacher and critic are for distillation, and it needs both")
        if is_distilled and self.layout == "shard":
            raise UserError(f"{self.name}: the student is distilled with layout='replicate'; see TrainConfig.layout")
        if self.idle == "leave" and (not is_distilled or self.scores_layout == "shard"):
            raise UserError(
                f"{self.name}: idle weights leave the device only in distillation with --layout replicate; "
                "of weights that are shared out a device holds little as it is"
            )
        if self.network is not None and self.adapter is not None:
            raise UserError(f"{self.name}: a network from scratch is trained whole; leave the adapter out")
        if self.has_muon and "shard" in (self.layout, self.scores_layout if is_distilled else "replicate"):
            raise UserError(f"{self.name}: Muon needs whole matrices; use --layout replicate")
        if self.trains_text and is_distilled:
            raise UserError(f"{self.name}: the text encoder stays as it is in distillation")


RELEASED_STARTS = StartMix(text=0.4, image=0.0, clip=0.4)
NOISE_ONLY = Corruption(noise=0.9, blur=0.0, exposure=0.0)
NOISE_OR_BLUR = Corruption(noise=0.81, blur=0.09, exposure=0.0)
EXPOSURE = Corruption(noise=0.0, blur=0.0, exposure=0.9, factors=(0.3, 1.7))
RELEASED_PAST = PastConfig(RELEASED_STARTS, NOISE_ONLY)
CORRECT_PAST = PastConfig(replace(RELEASED_STARTS, image=0.1), NOISE_OR_BLUR)


def _distill(clip_starts: float, corruption: Corruption, gan: GanConfig | None) -> DistillConfig:
    """Distribution matching as released: 5 critic updates to one of the student, coarse to fine over 500 steps."""
    # The released files ask for a gradient norm of 10, which their engine ignores: 1 is what was trained with.
    return DistillConfig(
        past=PastConfig(replace(RELEASED_STARTS, clip=clip_starts), corruption),
        student_corruption=EXPOSURE,
        teacher_guidance=4.0,
        critic_steps=5,
        student_times=TimeDraw(steps=500, a=4.0, b=1.5),
        critic_times=TimeDraw(),
        gan=gan,
        student_optimiser=Optimiser(2e-6, (0.0, 0.999), 1e-3),
        critic_optimiser=Optimiser(4e-7, (0.0, 0.999), 1e-3),
    )


ADAPT_INIT = TrainConfig(
    name="adapt-init",
    stage=AdaptConfig("logit_normal", RELEASED_PAST, Optimiser(5e-5)),
    start=StartPoint(WAN),
    adapter=AdapterConfig(128, convolutions=("patch_embedding",), full=PATCHES),
    loop=LoopConfig(5500, checkpoint_every=500, sample_every=500, precision="bfloat16", seed=43),
    batch_size=2,
    kind="base",
)
"""Stage 1, first phase: a text-to-video model learns to continue. Global batch 128."""

ADAPT_POST = replace(
    ADAPT_INIT,
    name="adapt-post",
    stage=AdaptConfig("logit_normal", RELEASED_PAST, Optimiser(3e-5)),
    start=StartPoint(BASE, "transformer_init"),
    loop=replace(ADAPT_INIT.loop, max_steps=7500, seed=44),
)
"""Stage 1, second phase, at a lower rate: Helios-Base. Global batch 128."""

MULTISCALE_INIT = TrainConfig(
    name="multiscale-init",
    stage=MultiscaleConfig(repeats=(1, 2, 1), past=RELEASED_PAST, optimiser=Optimiser(1e-4)),
    start=StartPoint(BASE),
    adapter=AdapterConfig(256),
    loop=replace(ADAPT_INIT.loop, max_steps=16000, rate="warmup", warmup_steps=1000, seed=45),
    batch_size=1,
    kind="mid",
)
"""Stage 2, first phase: the pyramid. 64 clips a step, which are 256 sequences."""

MULTISCALE_POST = replace(
    MULTISCALE_INIT,
    name="multiscale-post",
    stage=MultiscaleConfig(repeats=(1, 1, 1), past=RELEASED_PAST, optimiser=Optimiser(3e-5)),
    start=StartPoint(MID, "transformer_init"),
    adapter=AdapterConfig(256, convolutions=("patch_embedding", *PATCHES)),
    loop=replace(MULTISCALE_INIT.loop, max_steps=20000, warmup_steps=500, seed=46),
)
"""Stage 2, second phase, at a lower rate: Helios-Mid. 64 clips a step, which are 192 sequences."""

DISTILL_ODE = TrainConfig(
    name="distill-ode",
    stage=OdeConfig(num_chunks=3, weight=80.0, optimiser=Optimiser(2e-6, (0.0, 0.999), 1e-3)),
    start=StartPoint(MID),
    adapter=AdapterConfig(256, convolutions=PATCHES),
    loop=LoopConfig(3759, checkpoint_every=250, sample_every=500, precision="bfloat16", seed=47),
    batch_size=1,
    kind="distilled",
    ema=EmaConfig(0.99, 250),
)
"""Stage 3, first phase: regression on the teacher's paths. Global batch 128."""

DISTILL_DMD = replace(
    DISTILL_ODE,
    name="distill-dmd",
    stage=_distill(0.5, NOISE_ONLY, None),
    start=StartPoint(DISTILLED, "transformer_ode"),
    loop=replace(DISTILL_ODE.loop, max_steps=2250, seed=49),
    ema=EmaConfig(0.99, 750),
    scores=StartPoint(BASE),
    critic=AdapterConfig(256),
    layout="replicate",
)
"""Stage 3, second phase: distribution matching, teacher Helios-Base. Global batch 128."""

DISTILL_GAN = replace(DISTILL_DMD, name="distill-gan", stage=_distill(0.5, NOISE_OR_BLUR, GanConfig()))
"""Stage 3, second phase, with heads that count from step 1000: Helios-Distilled. Global batch 128."""

_PHASES = (ADAPT_INIT, ADAPT_POST, MULTISCALE_INIT, MULTISCALE_POST, DISTILL_ODE, DISTILL_DMD, DISTILL_GAN)

TINY_NETWORK = NetworkSizes(
    num_layers=4, num_attention_heads=6, attention_head_dim=32, ffn_dim=768, rope_dim=(12, 10, 10)
)
"""4.4 million parameters."""


def correct(config: TrainConfig) -> TrainConfig:
    """The preset as its authors advise now."""
    stage: StageConfig = config.stage
    if isinstance(stage, DistillConfig):
        past = PastConfig(replace(stage.past.starts, image=0.1, clip=0.4), NOISE_OR_BLUR)
        stage = replace(stage, past=past)
    elif not isinstance(stage, OdeConfig):
        stage = replace(stage, past=CORRECT_PAST)
    return replace(config, name=f"{config.name}-correct", stage=stage)


def tiny(config: TrainConfig) -> TrainConfig:
    """The same phase for a network of a few million parameters on one CPU, in minutes: 64×64 pixels, higher rates.

    The first phase trains from scratch beside the embedded model's autoencoder and text encoder; the others start from
    the embedded model unless told otherwise, and train adapters of rank 32.
    """
    is_first = config.name == ADAPT_INIT.name
    loop = replace(
        config.loop,
        max_steps=300,
        warmup_steps=min(config.loop.warmup_steps, 20),
        precision="float32",
        checkpoint_every=100,
        sample_every=100,
    )
    adapter = AdapterConfig(32) if config.adapter is None else replace(config.adapter, rank=32)
    return replace(
        config,
        name=f"tiny-{config.name}",
        stage=_tiny_stage(config.stage),
        start=StartPoint("tiny"),
        adapter=None if is_first else adapter,
        network=TINY_NETWORK if is_first else None,
        loop=loop,
        batch_size=4 if config.batch_size > 1 else 2,
        size=(64, 64),
        ema=EmaConfig(0.99, 50) if config.ema else None,
        scores=StartPoint("tiny") if config.scores else None,
        critic=AdapterConfig(32) if config.critic else None,
        layout="replicate",
        scores_layout="replicate",
        saves_memory=False,
    )


def _tiny_stage(stage: StageConfig) -> StageConfig:
    """Rates for small networks (proposals of the reference, 9.4), and heads that fit one."""
    match stage:
        case AdaptConfig():
            return replace(stage, optimiser=replace(stage.optimiser, learning_rate=3e-4))
        case MultiscaleConfig():
            return replace(stage, optimiser=replace(stage.optimiser, learning_rate=2e-4))
        case OdeConfig():
            return replace(stage, optimiser=replace(stage.optimiser, learning_rate=1e-4))
        case DistillConfig():
            gan = stage.gan and replace(stage.gan, blocks=(0, 1), sizes=HeadSizes(width=32, halvings=1), first_step=100)
            return replace(
                stage,
                gan=gan,
                student_times=replace(stage.student_times, steps=100),
                student_optimiser=replace(stage.student_optimiser, learning_rate=5e-5),
                critic_optimiser=replace(stage.critic_optimiser, learning_rate=2e-5),
            )


EMBEDDED_NETWORK = NetworkSizes(
    num_layers=6, num_attention_heads=3, attention_head_dim=64, ffn_dim=768, rope_dim=(24, 20, 20)
)
"""4.9 million parameters: the transformer of the embedded model."""


def _embedded() -> tuple[TrainConfig, ...]:
    """The phases that make the embedded model from nothing (`runs/embedded.sh`): everything is trained, on one CPU."""
    adapt = TrainConfig(
        name="embedded-adapt",
        stage=AdaptConfig("logit_normal", CORRECT_PAST, Optimiser(1.5e-3, (0.9, 0.99), 1e-2)),
        start=StartPoint("tiny"),
        adapter=None,
        loop=LoopConfig(
            500,
            rate="warmup",
            warmup_steps=100,
            precision="bfloat16",
            checkpoint_every=100,
            keep_checkpoints=2,
            seed=50,
        ),
        batch_size=8,
        kind="base",
        size=(64, 64),
        network=EMBEDDED_NETWORK,
        trains_text=True,
        layout="replicate",
        saves_memory=False,
    )
    multiscale = replace(
        adapt,
        name="embedded-multiscale",
        stage=MultiscaleConfig(
            repeats=(1, 1, 1),
            past=CORRECT_PAST,
            optimiser=Optimiser(2e-3, (0.9, 0.99), 1e-2, has_muon=True),
            emphasis=(4.0, 2.0, 1.0),
        ),
        loop=replace(adapt.loop, max_steps=5200, rate="cosine", seed=51),
        batch_size=16,
        kind="mid",
        network=None,
        ema=EmaConfig(0.998, 200),
    )
    ode = replace(
        adapt,
        name="embedded-ode",
        stage=OdeConfig(num_chunks=2, weight=1.0, optimiser=Optimiser(5e-4, (0.9, 0.99), 1e-3, has_muon=True)),
        loop=replace(adapt.loop, max_steps=400, rate="cosine", warmup_steps=20, seed=52),
        kind="distilled",
        network=None,
        trains_text=False,
        ema=EmaConfig(0.99, 40),
    )
    return adapt, multiscale, ode


def _all() -> Mapping[str, TrainConfig]:
    released = list(_PHASES)
    corrected = [correct(config) for config in released if config is not DISTILL_ODE]
    small = [replace(correct(small), name=small.name) for small in map(tiny, released)]
    return MappingProxyType({config.name: config for config in (*released, *corrected, *small, *_embedded())})


TRAINING: Mapping[str, TrainConfig] = _all()
"""Every preset by name. The tiny ones are of the corrected phases."""


def training_preset(name: str) -> TrainConfig:
    """The preset of this name.

    Raises:
        UserError: there is none; lists those there are.
    """
    if name not in TRAINING:
        raise UserError(f"there is no training preset {name!r}; use one of {', '.join(TRAINING)}")
    return TRAINING[name]
