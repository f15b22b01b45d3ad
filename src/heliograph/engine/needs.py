"""What a model needs, from the headers and configurations of its folder, before anything is loaded.

All sizes are bytes. Weights are exact. Activations are upper estimates, for one forward pass of `model/transformer.py`
at the last pyramid level and for decoding one chunk; no network is built.
"""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from heliograph.checkpoint import FP32_COMPONENTS, STRIDE_KEY, ModelFolder, latent_stride, read_json, tensor_table
from heliograph.config import MemoryConfig
from heliograph.errors import CheckpointError
from heliograph.presets import sampler_for
from heliograph.shapes import CHUNK_FRAMES, CHUNK_LATENTS, FRAME_STRIDE, LATENT_STRIDE, PATCH

SLACK = 1.1
"""Activations are counted this much larger: the allocator rounds up, and freed pieces do not always fit again."""

TEXT_TOKENS = 512
"""Most tokens in a text embedding."""

WAN_BYTES_PER_CHANNEL = 203
"""Live bytes of a float32 decode by the Wan autoencoder, per pixel and channel at full resolution.

Latent frames go through the decoder one at a time, 4 pixel frames each, with two frames of every convolution's input
kept. Counted on fake tensors from 128 × 128 to 768 × 1280 pixels and from 16 to 96 channels: 4.9 GB at 384 × 640 with
the released 96 channels.
"""

FAST_FRAMES = CHUNK_LATENTS * FRAME_STRIDE
"""Pixel frames that the fast autoencoder holds at once when it decodes a chunk; the first three are dropped."""

BLOCK_NAME = re.compile(r"blocks\.(\d+)\.")
"""How the name of a tensor in a transformer block begins; the group is the block's index."""


@dataclass(frozen=True)
class Weights:
    """A number of parameters, of which `num_fp32` are float32 in every dtype."""

    num_parameters: int
    num_fp32: int = 0

    def bytes_in(self, dtype: torch.dtype) -> int:
        """Memory that they take when the others are `dtype`."""
        return (self.num_parameters - self.num_fp32) * dtype.itemsize + self.num_fp32 * torch.float32.itemsize


@dataclass(frozen=True)
class PartNeeds:
    """Parameters of one component.

    `blocks` are those in the repeated blocks, `num_blocks` of them, `largest_block` those of the largest. Of the
    blocks' parameters `num_matrix` are in matrices, which have `num_rows` rows: what 8-bit weights apply to.
    """

    weights: Weights
    blocks: Weights = Weights(0)
    largest_block: Weights = Weights(0)
    num_blocks: int = 0
    num_matrix: int = 0
    num_rows: int = 0

    def int8_bytes(self, dtype: torch.dtype) -> int:
        """Memory with one byte for each matrix element, a scale of `dtype` for each row, and the rest in `dtype`."""
        saved = self.num_matrix * (dtype.itemsize - 1) - self.num_rows * dtype.itemsize
        return self.weights.bytes_in(dtype) - saved


@dataclass(frozen=True)
class NetworkSizes:
    """Widths that decide how large activations are; the defaults are those of the released models.

    `dim`, `ffn_dim`, `num_heads`, `head_dim`, `num_layers`: the transformer. `text_dim`, `text_ffn_dim`, `text_heads`:
    the text encoder. `decode_bytes_per_pixel`: live features while the autoencoder decodes a chunk in float32.
    """

    num_heads: int = 40
    head_dim: int = 128
    ffn_dim: int = 13824
    num_layers: int = 40
    text_dim: int = 4096
    text_ffn_dim: int = 10240
    text_heads: int = 64
    decode_bytes_per_pixel: int = 96 * WAN_BYTES_PER_CHANNEL

    @property
    def dim(self) -> int:
        """Width of the transformer."""
        return self.num_heads * self.head_dim


@dataclass(frozen=True)
class Workload:
    """What is asked of a model at a time: one chunk of `height` × `width` pixels.

    `num_prompts` is 2 where guidance weighs the prompt against a negative one: the two branches run one after the
    other, but the text keys of both are kept. `history_is_reused` says that history keys and values are kept through a
    chunk (an approximation, off in exact runs). `stride` is the pixels per latent cell.
    """

    height: int
    width: int
    num_prompts: int = 1
    history_is_reused: bool = False
    stride: int = LATENT_STRIDE

    @property
    def history_tokens(self) -> int:
        """Tokens of the history."""
        return sum(self.tier_tokens)

    @property
    def tier_tokens(self) -> tuple[int, int, int]:
        """Tokens of the long (4×), mid (2×) and short (1×, with the anchor) tier, always at full resolution."""
        memory = MemoryConfig()
        long, mid, short = (
            math.ceil(frames / scale) * self._grid(scale)
            for frames, scale in ((memory.long, 4), (memory.mid, 2), (memory.short + memory.keeps_anchor, 1))
        )
        return long, mid, short

    @property
    def num_tokens(self) -> int:
        """Tokens of history and chunk at the last pyramid level: 11040 at 384 × 640."""
        return self.history_tokens + CHUNK_LATENTS * self._grid(1)

    def _grid(self, scale: int) -> int:
        patch = self.stride * PATCH * scale
        return math.ceil(self.height / patch) * math.ceil(self.width / patch)


@dataclass(frozen=True)
class ModelNeeds:
    """What running a model takes, apart from where."""

    transformer: PartNeeds
    text_encoder: PartNeeds
    vae: PartNeeds
    sizes: NetworkSizes
    work: Workload

    @property
    def num_parameters(self) -> int:
        """Parameters of all parts."""
        return sum(part.weights.num_parameters for part in (self.transformer, self.text_encoder, self.vae))

    def transformer_bytes(self, dtype: torch.dtype) -> int:
        """Upper estimate of one forward pass at the last pyramid level, kernels that keep no score matrix.

        With n tokens, width d and feed-forward width f: the larger of two moments, rotating the keys (5 tensors n·d in
        `dtype` and 4 in float32) or the feed-forward's activation (6 tensors n·d and 2 tensors n·f in `dtype`), and
        the float32 rotary tables, one of history and chunk apart and one of both joined; and block 0's queries, keys
        and values of the history, which are kept through a chunk.
        """
        n, d, f, item = self.work.num_tokens, self.sizes.dim, self.sizes.ffn_dim, dtype.itemsize
        attention = n * d * (5 * item + 4 * 4)
        feed_forward = n * item * (6 * d + 2 * f)
        rotary = 2 * n * self.sizes.head_dim * 4
        constant = 3 * self.work.history_tokens * d * item
        return math.ceil(SLACK * (max(attention, feed_forward) + rotary + constant))

    def score_bytes(self, dtype: torch.dtype) -> int:
        """The score matrix of one self-attention, for devices whose kernels write it out."""
        return self.sizes.num_heads * self.work.num_tokens**2 * max(dtype.itemsize, 4)

    def decode_bytes(self) -> int:
        """Upper estimate of decoding one chunk in float32: features, and the frames twice."""
        frames = 2 * CHUNK_FRAMES * 3 * 4
        return math.ceil(SLACK * self.work.height * self.work.width * (self.sizes.decode_bytes_per_pixel + frames))

    def encode_bytes(self, dtype: torch.dtype) -> int:
        """Upper estimate of encoding one prompt: hidden states, gated feed-forward, position bias and scores."""
        hidden = TEXT_TOKENS * (12 * self.sizes.text_dim + 3 * self.sizes.text_ffn_dim)
        scores = 2 * self.sizes.text_heads * TEXT_TOKENS**2
        return math.ceil(SLACK * (hidden + scores) * dtype.itemsize)

    def text_table_bytes(self, dtype: torch.dtype) -> int:
        """Keys and values of the prompts in every block, kept while the prompts last: 0.42 GB each for a 14B model."""
        return self.work.num_prompts * self._table(TEXT_TOKENS, dtype)

    def history_table_bytes(self, dtype: torch.dtype) -> int:
        """Keys and values of the history in every block, where they are reused: 1.97 GB for a 14B model."""
        return self._table(self.work.history_tokens, dtype) if self.work.history_is_reused else 0

    def _table(self, num_tokens: int, dtype: torch.dtype) -> int:
        return 2 * num_tokens * self.sizes.dim * self.sizes.num_layers * dtype.itemsize


def needs_of(folder: ModelFolder, work: Workload) -> ModelNeeds:
    """Needs of a model on this machine, from the headers of its weight files and its configurations.

    Raises:
        CheckpointError: a file is missing or damaged, or a size in a configuration is not a number.
    """

    def shapes(part: str) -> dict[str, tuple[int, ...]]:
        return {name: info.shape for name, info in tensor_table(folder.part(part)).items()}

    return ModelNeeds(
        transformer=part_needs(shapes("transformer"), FP32_COMPONENTS),
        text_encoder=part_needs(shapes("text_encoder")),
        vae=part_needs(shapes("vae")),
        sizes=_network_sizes(folder),
        work=work,
    )


def workload_of(folder: ModelFolder, height: int, width: int) -> Workload:
    """The work of this model at this size in pixels, sampled as it was trained: guidance keeps a second prompt."""
    switches = {"is_distilled": folder.index.is_distilled, "is_cfg_zero_star": folder.index.is_cfg_zero_star}
    guidance = sampler_for(folder.scheduler_config, switches).guidance
    return Workload(height, width, num_prompts=2 if guidance.is_on else 1, stride=latent_stride(folder.path))


def released_needs(work: Workload) -> ModelNeeds:
    """Needs of the released 14B models, known without their files."""
    block = Weights(351_394_304, 40_960)
    return ModelNeeds(
        transformer=PartNeeds(
            weights=Weights(14_312_427_584, 29_184_000),
            blocks=Weights(40 * block.num_parameters, 40 * block.num_fp32),
            largest_block=block,
            num_blocks=40,
            num_matrix=40 * 351_272_960,
            num_rows=40 * 59_904,
        ),
        text_encoder=PartNeeds(Weights(5_680_910_336)),
        vae=PartNeeds(Weights(126_892_531)),
        sizes=NetworkSizes(),
        work=work,
    )


def part_needs(shapes: Mapping[str, tuple[int, ...]], fp32: Collection[str] = ()) -> PartNeeds:
    """Parameters of a component from its tensors' names and shapes.

    Args:
        shapes: all stored tensors.
        fp32: name components whose tensors are float32 in every dtype.
    """
    blocks: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        if found := BLOCK_NAME.match(name):
            blocks.setdefault(found[1], {})[name] = shape
    in_blocks = {name: shape for block in blocks.values() for name, shape in block.items()}
    matrices = [shape for shape in in_blocks.values() if len(shape) == 2]
    return PartNeeds(
        weights=_count(shapes, fp32),
        blocks=_count(in_blocks, fp32),
        largest_block=max(
            (_count(b, fp32) for b in blocks.values()), key=lambda w: w.num_parameters, default=Weights(0)
        ),
        num_blocks=len(blocks),
        num_matrix=sum(math.prod(shape) for shape in matrices),
        num_rows=sum(shape[0] for shape in matrices),
    )


def _count(shapes: Mapping[str, tuple[int, ...]], fp32: Collection[str]) -> Weights:
    kept = set(fp32)
    return Weights(
        num_parameters=sum(math.prod(shape) for shape in shapes.values()),
        num_fp32=sum(math.prod(shape) for name, shape in shapes.items() if kept & set(name.split("."))),
    )


def _network_sizes(folder: ModelFolder) -> NetworkSizes:
    """Sizes from the three configurations; a key that is not there has the released value, as in the constructors."""
    released = NetworkSizes()
    transformer = folder.transformer_config
    text = read_json(folder.part("text_encoder") / "config.json")
    return NetworkSizes(
        num_heads=_size(transformer, "num_attention_heads", released.num_heads),
        head_dim=_size(transformer, "attention_head_dim", released.head_dim),
        ffn_dim=_size(transformer, "ffn_dim", released.ffn_dim),
        num_layers=_size(transformer, "num_layers", released.num_layers),
        text_dim=_size(text, "d_model", released.text_dim),
        text_ffn_dim=_size(text, "d_ff", released.text_ffn_dim),
        text_heads=_size(text, "num_heads", released.text_heads),
        decode_bytes_per_pixel=_decode_bytes_per_pixel(folder),
    )


def _decode_bytes_per_pixel(folder: ModelFolder) -> int:
    """Live features while the model's autoencoder decodes a chunk in float32."""
    config = read_json(folder.part("vae") / "config.json")
    if folder.index.components["vae"].class_name == "LinearAutoencoder":
        return _linear_decode_bytes_per_pixel(config)
    if folder.index.components["vae"].class_name != "FastAutoencoder":
        return WAN_BYTES_PER_CHANNEL * _size(config, "base_dim", 96)
    dims = config.get("decoder_dims", (256, 128, 64, 64))
    if not isinstance(dims, list | tuple) or len(dims) != 4 or not all(isinstance(dim, int) for dim in dims):
        raise CheckpointError(
            f"decoder_dims={dims!r} in vae/config.json are no four widths; use for example 256,128,64,64"
        )
    # At full resolution a layer's input and output are alive: twice the frames, then the channels, then the activation.
    channels = max(3 * dims[2] // 2, dims[2] + dims[3], 2 * dims[3])
    return FAST_FRAMES * channels * torch.float32.itemsize


def _linear_decode_bytes_per_pixel(config: Mapping[str, Any]) -> int:
    """The same for a linear code: frames, their patches, and three hidden layers of its network, cell by cell."""
    width = config.get("decoder_dim", 384)
    if not isinstance(width, int) or isinstance(width, bool) or width < 0:
        raise CheckpointError(
            f"decoder_dim={width!r} in vae/config.json is no width; use for example 384, or 0 for none"
        )
    hidden = 3 * width / (_size(config, STRIDE_KEY, LATENT_STRIDE) ** 2 * FRAME_STRIDE)
    return math.ceil(FAST_FRAMES * (4 * 3 + hidden) * torch.float32.itemsize)


def _size(config: Mapping[str, Any], key: str, released: int) -> int:
    value = config.get(key, released)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(f"{key}={value!r} in a config.json is no size; use a whole number above 0")
    return value
