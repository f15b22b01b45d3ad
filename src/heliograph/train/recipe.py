"""A complete training run as one frozen value: what is learned, from where, how long, and what is trained of it."""

from dataclasses import dataclass, field

from heliograph.config import MemoryConfig
from heliograph.data.selection import Selection
from heliograph.errors import UserError
from heliograph.shapes import check_size
from heliograph.train.adapt import AdaptConfig
from heliograph.train.adapter import AdapterConfig
from heliograph.train.distill import DistillConfig
from heliograph.train.ema import EmaConfig
from heliograph.train.export import Kind
from heliograph.train.idle import IdlePlace
from heliograph.train.loop import LoopConfig
from heliograph.train.multiscale import MultiscaleConfig
from heliograph.train.ode import OdeConfig
from heliograph.train.parallel import Layout
from heliograph.train.start import NetworkSizes, StartPoint

StageConfig = AdaptConfig | MultiscaleConfig | OdeConfig | DistillConfig


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
        selection: which examples of the procedural world are shown.
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
    selection: Selection = field(default_factory=Selection)
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
