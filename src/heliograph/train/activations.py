"""What a step of training reads and remembers: tokens of every forward pass, bytes kept for the backward pass."""

from collections.abc import Sequence
from dataclasses import dataclass

from heliograph.config import MemoryConfig
from heliograph.model.transformer import HeliosTransformer3DModel
from heliograph.presets import PYRAMID_BORDERS
from heliograph.shapes import CHUNK_LATENTS, LATENT_STRIDE, PATCH
from heliograph.train.distill import DistillConfig
from heliograph.train.multiscale import MultiscaleConfig
from heliograph.train.ode import OdeConfig
from heliograph.train.recipe import TrainConfig

VALUES_KEPT = 34
"""Values of the network's width that a block keeps of each token for its backward pass, counted at two bytes."""

TIERS_FACTORS = {"long": 4, "mid": 2, "short": 1}


@dataclass(frozen=True)
class ForwardPass:
    """One pass of the student over one example, remembered until the backward pass.

    Attributes:
        sequences: tokens of each sequence in it, history included; attention looks at one at a time.
        share: how many of the examples take part in it on average. All of a batch may.
    """

    sequences: tuple[int, ...]
    share: float = 1.0

    @property
    def tokens(self) -> int:
        """Tokens of all sequences."""
        return sum(self.sequences)


def forward_passes(config: TrainConfig, stride: int = LATENT_STRIDE) -> tuple[ForwardPass, ...]:
    """What the student reads for one example before one backward pass.

    `stride` is the pixels per latent cell.
    """
    height, width = (side // stride for side in config.size)
    history = history_tokens(height, width, config.memory)
    full = CHUNK_LATENTS * (height // PATCH) * (width // PATCH)
    levels = [history + full // 4**smaller for smaller in range(len(PYRAMID_BORDERS) - 1)][::-1]
    one_by_one = tuple(ForwardPass((tokens,)) for tokens in levels)
    match config.stage:
        case MultiscaleConfig(repeats=repeats, openings=openings):  # all levels in one packed sequence
            packed = tuple(tokens for count, tokens in zip(repeats, levels, strict=True) for _ in range(count))
            if openings is None:
                return (ForwardPass(packed),)
            share = config.selection.opening_share
            return (ForwardPass(packed), ForwardPass(tuple(levels[: len(openings.emphasis)]), share))
        case OdeConfig(num_chunks=count):
            return one_by_one * count
        case DistillConfig():
            return one_by_one
        case _:
            return (ForwardPass((history + full,)),)


def history_tokens(height: int, width: int, memory: MemoryConfig) -> int:
    """Tokens of a full memory with its anchor, for pictures of `height` × `width` latent cells."""
    frames = {"long": memory.long, "mid": memory.mid, "short": memory.short + int(memory.keeps_anchor)}
    return sum(
        -(-frames[tier] // factor) * -(-height // (PATCH * factor)) * -(-width // (PATCH * factor))
        for tier, factor in TIERS_FACTORS.items()
    )


def activation_bytes(
    network: HeliosTransformer3DModel,
    passes: Sequence[ForwardPass],
    examples: int,
    *,
    saves_memory: bool,
    keeps_scores: bool = False,
) -> int:
    """About what the backward pass needs after `passes` over a batch of `examples`, in bytes.

    A block keeps some 34 values of width d per token at two bytes (norms and residuals are float32) and two of the
    feed-forward's width: counted on the embedded model, without a compiler. Where attention is two products
    (`keeps_scores`) it keeps all scores too, two bytes each. With checkpointing each block keeps its input alone, and
    one is computed again.
    """
    dim, hidden, count = network.proj_out.in_features, network.config["ffn_dim"], len(network.blocks)
    score_bytes = 2 * network.config["num_attention_heads"] if keeps_scores else 0
    per_token = 2 * VALUES_KEPT * dim + 2 * 2 * hidden
    blocks = [one.tokens * per_token + sum(n * n for n in one.sequences) * score_bytes for one in passes]
    if saves_memory:
        return examples * (sum(one.tokens for one in passes) * count * dim * 2 + max(blocks))
    return examples * sum(blocks) * count
