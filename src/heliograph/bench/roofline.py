"""The arithmetic of a chunk, counted, and the least time that a machine can take for it.

A multiply and an add are two operations. Norms, rotations, softmax and activations are bytes, not operations. Counts
are of what this package runs: text keys made once a prompt, block 0's history once a chunk, no dead rows in the last
block. `tests/bench/test_roofline.py` compares them with PyTorch's own counter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from heliograph.engine.needs import TEXT_TOKENS, NetworkSizes, Workload
from heliograph.shapes import CHUNK_FRAMES, CHUNK_LATENTS, LATENT_STRIDE, PATCH

CHANNELS = 16
"""Channels of latents."""


@dataclass(frozen=True)
class Rates:
    """What a machine reaches on large inputs: operations a second, and bytes a second."""

    name: str
    matmul: float
    matmul_8bit: float
    attention: float
    convolution: float
    bandwidth: float


H100 = Rates("H100", 790e12, 1422e12, 0.94 * 790e12, 790e12, 3.08e12)
H200 = Rates("H200", 790e12, 1422e12, 0.94 * 790e12, 790e12, 4.3e12)
MACHINES: Mapping[str, Rates] = {"H100": H100, "H200": H200}
"""Rates of the study of performance (measured elsewhere on large matrices), by a word of the device's name."""


def rates_of(device_name: str) -> Rates | None:
    """Those of a device, None where they are not known."""
    return next((rates for word, rates in MACHINES.items() if word in device_name), None)


def chunk_tokens(work: Workload, level: int, num_levels: int) -> int:
    """Tokens of the chunk on a pyramid level, 0 the coarsest."""
    cell = work.stride * PATCH * 2 ** (num_levels - 1 - level)
    return CHUNK_LATENTS * (work.height // cell) * (work.width // cell)


def step_flops(net: NetworkSizes, work: Workload, level: int, num_levels: int) -> dict[str, int]:
    """Operations of one forward whose prompt and history are known, by part."""
    n = chunk_tokens(work, level, num_levels)
    whole, d, blocks = n + work.history_tokens, net.dim, net.num_layers
    assert blocks >= 2, "a model of one block knows its history and leaves it in the same one"
    asking = (blocks - 1) * whole + n  # every block but the last goes on with its history
    patch = CHANNELS * PATCH**2
    return {
        "queries, keys, values": 2 * d * d * (3 * n + 3 * (blocks - 2) * whole + 2 * whole + n),
        "scores": 4 * d * whole * asking,
        "output projection": 2 * d * d * asking,
        "text queries and output": blocks * n * 4 * d * d,
        "text scores": blocks * 4 * n * TEXT_TOKENS * d,
        "feed-forward": 4 * d * net.ffn_dim * asking,
        "patches and head": 2 * (2 * n * patch * d),
    }


def chunk_flops(net: NetworkSizes, work: Workload, steps: Sequence[int]) -> int:
    """Operations of the transformer for a chunk after the first, of one prompt."""
    levels = range(len(steps))
    each = [sum(step_flops(net, work, level, len(steps)).values()) for level in levels]
    return sum(count * flops for count, flops in zip(steps, each, strict=True)) + history_flops(net, work)


def history_flops(net: NetworkSizes, work: Workload) -> int:
    """Operations once a chunk: the history's patches, and its queries, keys and values in block 0."""
    long, mid, short = work.tier_tokens
    patch = CHANNELS * PATCH**2
    patches = 2 * patch * net.dim * (64 * long + 8 * mid + short)
    return patches + 6 * net.dim**2 * work.history_tokens


def decode_flops(channels: int, height: int, width: int) -> dict[str, int]:
    """Operations of decoding a chunk with the decoder of Wan 2.1, by part; `channels` at full resolution."""
    wide, frames, cells = 4 * channels, CHUNK_LATENTS, (height // LATENT_STRIDE) * (width // LATENT_STRIDE)
    flops = {
        "in": 2 * frames * cells * CHANNELS * (CHANNELS + 27 * wide),
        "middle": 2 * _residual(wide, wide, frames * cells) + frames * cells * (8 * wide * wide + 4 * cells * wide),
    }
    plan = ((wide, wide, True), (wide // 2, wide, True), (wide // 2, wide // 2, False), (channels, channels, None))
    for index, (first, then, doubles_time) in enumerate(plan):
        blocks = _residual(first, then, frames * cells) + 2 * _residual(then, then, frames * cells)
        if doubles_time:
            # The first latent frame stays one frame.
            blocks += 2 * (frames - 1) * cells * 3 * then * 2 * then
            frames = 2 * frames - 1
        if doubles_time is not None:
            cells *= 4
            blocks += 2 * frames * cells * 9 * then * (then // 2)
        flops[f"level {index}"] = blocks
    assert frames == CHUNK_FRAMES, frames
    flops["out"] = 2 * frames * cells * 27 * channels * 3
    return flops


def _residual(first: int, then: int, positions: int) -> int:
    shortcut = first * then if first != then else 0
    return 2 * positions * (27 * (first * then + then * then) + shortcut)


@dataclass(frozen=True)
class Floor:
    """The least seconds of a chunk: its arithmetic alone, at the rates of the machine."""

    transformer: float
    decode: float

    @property
    def frames_per_second(self) -> float:
        """Of one device that does both."""
        return CHUNK_FRAMES / (self.transformer + self.decode)


def floor_of(net: NetworkSizes, work: Workload, steps: Sequence[int], channels: int, rates: Rates) -> Floor:
    """In 16 bits, nothing approximated."""
    scores = sum(
        count * flops[part]
        for level, count in enumerate(steps)
        for flops in (step_flops(net, work, level, len(steps)),)
        for part in ("scores", "text scores")
    )
    products = chunk_flops(net, work, steps) - scores
    decode = sum(decode_flops(channels, work.height, work.width).values())
    return Floor(products / rates.matmul + scores / rates.attention, decode / rates.convolution)
