"""Presets of the embedded model (`runs/embedded.sh`), and arms: the same phase with one idea of the paper left out.

Everything is trained, text encoder included, from nothing, at 128×128 pixels on one CPU core: with cells of 16 pixels,
from `embedded-finer` on of 8; `embedded-larger` at 192×192.
"""

from dataclasses import replace

from heliograph.config import MemoryConfig
from heliograph.data.selection import Selection
from heliograph.train.adapt import AdaptConfig
from heliograph.train.adapter import AdapterConfig
from heliograph.train.corrupt import NO_CORRUPTION, Corruption, PastConfig, StartMix
from heliograph.train.distill import DistillConfig
from heliograph.train.dmd import TimeDraw
from heliograph.train.ema import EmaConfig
from heliograph.train.gan import GanConfig, HeadSizes
from heliograph.train.loop import LoopConfig
from heliograph.train.multiscale import MultiscaleConfig, Openings
from heliograph.train.ode import OdeConfig
from heliograph.train.recipe import TrainConfig
from heliograph.train.stage import Optimiser
from heliograph.train.start import NetworkSizes, StartPoint

NETWORK = NetworkSizes(num_layers=6, num_attention_heads=3, attention_head_dim=64, ffn_dim=768, rope_dim=(24, 20, 20))
"""4.9 million parameters."""

PAST = PastConfig(StartMix(0.4, 0.1, 0.4), Corruption(noise=0.81, blur=0.09, exposure=0.0))

ADAPT = TrainConfig(
    name="embedded-adapt",
    stage=AdaptConfig("logit_normal", PAST, Optimiser(1.5e-3, (0.9, 0.99), 1e-2)),
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
    size=(128, 128),
    network=NETWORK,
    trains_text=True,
    layout="replicate",
    scores_layout="replicate",
    saves_memory=False,
)
"""Stage 1, from scratch."""

MULTISCALE_STAGE = MultiscaleConfig(
    repeats=(1, 1, 1),
    past=PAST,
    optimiser=Optimiser(2e-3, (0.9, 0.99), 1e-2, has_muon=True),
    emphasis=(4.0, 2.0, 1.0),
)

MULTISCALE = replace(
    ADAPT,
    name="embedded-multiscale",
    stage=MULTISCALE_STAGE,
    loop=replace(ADAPT.loop, max_steps=5200, rate="cosine", seed=51),
    batch_size=16,
    kind="mid",
    network=None,
    selection=Selection(still_share=0.4),
    ema=EmaConfig(0.998, 200),
)
"""Stage 2. What starts from a still picture teaches motion: all else shows it without the caption, or hardly at all."""

MOTION = replace(
    MULTISCALE,
    name="embedded-motion",
    stage=replace(
        MULTISCALE_STAGE,
        past=replace(PAST, starts=StartMix(1.0, 0.0, 0.0)),
        optimiser=Optimiser(5e-4, (0.9, 0.98), 1e-2),
        emphasis=(8.0, 2.0, 0.1),
        first_share=0.3,
    ),
    loop=replace(MULTISCALE.loop, max_steps=300, rate="warmup", warmup_steps=10, seed=55),
    selection=Selection(opening_share=1.0, shows="bright crossings"),
    ema=EmaConfig(0.95, 20),
)
"""A short stretch of stage 2 in which left and right are found; the stage then goes on as before."""

CROSSINGS = replace(
    MOTION,
    name="embedded-crossings",
    loop=replace(MOTION.loop, max_steps=600, seed=56),
    selection=Selection(opening_share=1.0, shows="crossings"),
)
"""The same of all colours and lights: what was found there is carried over."""

SETTLE_STAGE = replace(
    MULTISCALE_STAGE,
    past=replace(PAST, starts=StartMix(0.1, 0.1, 0.4)),
    optimiser=Optimiser(4e-4, (0.9, 0.98), 1e-2),
    openings=Openings((2.7, 0.7)),
)

SETTLE = replace(
    MULTISCALE,
    name="embedded-settle",
    stage=SETTLE_STAGE,
    loop=replace(MULTISCALE.loop, max_steps=1500, seed=57),
    selection=Selection(still_share=0.2, opening_share=0.5, change_share=0.25),
)
"""Stage 2 again, on everything, gently, with many first chunks and a second look at them: where a subject begins, and
so where it goes, is decided there. Without them what the crossings taught was unlearned within 1,500 steps. Of what
follows something, a part follows another scene: a prompt that changes must win over what is remembered."""

WHOLE = replace(
    SETTLE,
    name="embedded-whole",
    stage=replace(
        SETTLE_STAGE,
        past=replace(SETTLE_STAGE.past, corruption=Corruption(noise=0.61, blur=0.09, exposure=0.2)),
        optimiser=Optimiser(2e-3, (0.9, 0.98), 1e-2, has_muon=True),
    ),
    loop=replace(SETTLE.loop, max_steps=5000, warmup_steps=100, checkpoint_every=1000, seed=58),
    batch_size=256,
    ema=EmaConfig(0.998, 500),
)
"""Stage 2 on a GPU, all that the phases above show one after another at once: there a large batch costs no time.

A fifth of the pasts has stronger or weaker contrast: where the students are never trained by their own videos (stage 3
proper, where the method does so), it is what keeps long ones from drifting.
"""

CONTINUE = replace(
    WHOLE,
    name="embedded-continue",
    stage=replace(WHOLE.stage, past=PastConfig(StartMix(0.05, 0.05, 0.1), Corruption(0.5, 0.05, 0.2))),
    loop=replace(WHOLE.loop, max_steps=600, seed=60),
    selection=Selection(still_share=0.05, change_share=0.15),
)
"""Stage 2 for what comes after the first chunks, which is nearly all of a long video.

Half of the examples are shown 18 or all 19 frames of their past, a quarter of these as they are; in `embedded-whole` it
is a fifth, and a tenth of them.
"""

EVEN = replace(
    WHOLE,
    name="embedded-even",
    stage=replace(
        WHOLE.stage,
        past=PastConfig(StartMix(0.08, 0.07, 0.2), Corruption(0.55, 0.07, 0.2)),
        emphasis=(4.0, 4.0, 1.0),
    ),
    loop=replace(WHOLE.loop, max_steps=3000, warmup_steps=50, seed=61),
    selection=Selection(still_share=0.1, opening_share=0.25, change_share=0.15),
    batch_size=1024,
    ema=EmaConfig(0.99, 200),
)
"""Stage 2 in one run on a GPU that is at hand for minutes: half `embedded-whole`, half `embedded-continue`.

The middle level, where the shapes of subjects are lost, counts twice what it does elsewhere.
"""

WIDEN = replace(
    WHOLE,
    name="embedded-widen",
    loop=replace(WHOLE.loop, max_steps=400, rate="warmup", warmup_steps=10, checkpoint_every=100, seed=59),
    batch_size=16,
    ema=EmaConfig(0.95, 20),
)
"""The first steps after cells got more numbers (`python -m heliograph.embedded widen`): small batches, at full pace."""

FINER = replace(
    EVEN,
    name="embedded-finer",
    stage=replace(EVEN.stage, emphasis=(4.0, 4.0, 2.0)),
    loop=replace(EVEN.loop, max_steps=6000, warmup_steps=100, checkpoint_every=200, seed=62),
    batch_size=16,
    ema=EmaConfig(0.998, 300),
)
"""Stage 2 after cells became smaller (`python -m heliograph.embedded finer`): four times the tokens.

In small batches (two processes of 8 on two cores): from a start that knows what each number means they learn most."""

LARGER = replace(
    FINER,
    name="embedded-larger",
    stage=replace(FINER.stage, lead=4.0),
    loop=replace(FINER.loop, max_steps=1000, checkpoint_every=100, seed=63),
    size=(192, 192),
    batch_size=8,
)
"""Stage 2 in larger pictures (`python -m heliograph.embedded larger`), at its end: the first frame after a past counts
four times, so that chunks meet better (decision 0024)."""

ODE = replace(
    ADAPT,
    name="embedded-ode",
    stage=OdeConfig(num_chunks=2, weight=1.0, optimiser=Optimiser(5e-4, (0.9, 0.99), 1e-3, has_muon=True)),
    loop=replace(ADAPT.loop, max_steps=400, rate="cosine", warmup_steps=20, seed=52),
    kind="distilled",
    network=None,
    trains_text=False,
    ema=EmaConfig(0.99, 40),
)
"""Stage 3, first half."""

GAN_STAGE = DistillConfig(
    past=PAST,
    student_corruption=Corruption(noise=0.0, blur=0.0, exposure=0.9, factors=(0.3, 1.7)),
    teacher_guidance=2.0,
    student_times=TimeDraw(steps=100),
    gan=GanConfig(blocks=(1, 3, 5), sizes=HeadSizes(width=64, halvings=1), first_step=60),
    student_optimiser=Optimiser(3e-5, (0.0, 0.999), 1e-3),
    critic_optimiser=Optimiser(2e-4, (0.0, 0.999), 1e-3),
)

GAN = replace(
    ODE,
    name="embedded-gan",
    stage=GAN_STAGE,
    loop=replace(ODE.loop, max_steps=300, rate="constant", seed=53),
    batch_size=16,
    scores=StartPoint("tiny"),
    critic=AdapterConfig(32),
    ema=EmaConfig(0.99, 200),
)
"""Stage 3, second half; its teacher (`--scores`) is a model of stage 1. Never run to its end."""

EMBEDDED = (
    ADAPT,
    MULTISCALE,
    MOTION,
    CROSSINGS,
    SETTLE,
    WHOLE,
    CONTINUE,
    EVEN,
    WIDEN,
    FINER,
    LARGER,
    ODE,
    replace(GAN, name="embedded-dmd", stage=replace(GAN_STAGE, gan=None)),
    GAN,
    replace(GAN, name="embedded-gan-uniform", stage=replace(GAN_STAGE, student_times=TimeDraw())),
)
"""All phases; the last, with uniform times, is the arm of stage 3 without coarse to fine."""

ARM_STAGE = replace(MULTISCALE_STAGE, optimiser=replace(MULTISCALE_STAGE.optimiser, learning_rate=1e-3))

ARM = replace(
    MULTISCALE,
    name="arm-full",
    stage=ARM_STAGE,
    loop=replace(MULTISCALE.loop, max_steps=300, seed=54),
    ema=EmaConfig(0.98, 50),
)
"""What every arm is compared with: stage 2 continued from the embedded model for a budget that one CPU core has."""

ARMS = (
    ARM,
    replace(ARM, name="arm-no-corruption", stage=replace(ARM_STAGE, past=replace(PAST, corruption=NO_CORRUPTION))),
    replace(ARM, name="arm-no-anchor", memory=MemoryConfig(keeps_anchor=False)),
    replace(ARM, name="arm-absolute-positions", memory=MemoryConfig(positions="absolute")),
    replace(ARM, name="arm-no-compression", memory=MemoryConfig(long=1, mid=1, short=17)),
    replace(
        ARM,
        name="arm-no-pyramid",
        stage=AdaptConfig("logit_normal", PAST, ARM_STAGE.optimiser),
        kind="base",
    ),
)
"""Stage 2 with one idea left out: each starts from the same weights, sees as many of the same clips, and is sampled as
it was trained. Without compression 17 of 19 remembered frames come in full."""
