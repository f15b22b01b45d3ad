"""The Helios transformer: history and chunk tokens in, velocity of the chunk out.

Configuration keys and tensor names are those of the released checkpoints; loading, sharding, LoRA, quantisation and
offload are the library's (`ModelMixin`, `PeftAdapterMixin`).
"""

import math
from collections.abc import Hashable, Sequence
from functools import partial
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders.peft import PeftAdapterMixin
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from heliograph.errors import CheckpointError
from heliograph.kernels.plain import layer_norm
from heliograph.memory import Tiers
from heliograph.model.attention import ScaleMode
from heliograph.model.block import BlockConfig, TextSource, TransformerBlock
from heliograph.model.embed import ConditionEmbedder, TimeRow
from heliograph.model.lean import LeanBlocks, SamplingBlocks, can_run_lean
from heliograph.model.memo import Forgetful, Memo, Memos
from heliograph.model.packed import Part, Stretch, TokenLayout
from heliograph.model.past import Noted, PastSource, constant_key, noted_for
from heliograph.model.patchify import (
    Grid,
    from_tokens,
    history_rotary,
    init_tier_patches,
    patch_conv,
    to_tokens,
)
from heliograph.model.rope import Rotary, RotaryConfig, flatten_table, rotary_table


class OutputNorm(nn.Module):
    """Modulated norm before the output projection; its two rows are shift and scale."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)

    def forward(self, x: Float[Tensor, "b n d"], time: TimeRow) -> Float[Tensor, "b n d"]:
        """LN(x)·(1 + scale) + shift in float32, back in the dtype of `x`."""
        shift, scale = (self.scale_shift_table.float() + time.head[:, None]).unbind(1)
        return (layer_norm(x, self.eps) * (1 + scale[:, None]) + shift[:, None]).to(x.dtype)


class HeliosTransformer3DModel(ModelMixin, ConfigMixin, PeftAdapterMixin, CacheMixin):
    """Autoregressive video transformer of Helios (arXiv 2603.04379); parameters as in the released `config.json`."""

    _supports_gradient_checkpointing = True
    _repeated_blocks = ["TransformerBlock"]  # noqa: RUF012 - read by the library as class attributes
    _no_split_modules = ["TransformerBlock", "OutputNorm"]  # noqa: RUF012
    _keep_in_fp32_modules = [  # noqa: RUF012
        "time_embedder",
        "scale_shift_table",
        "norm1",
        "norm2",
        "norm3",
        "history_key_scale",
    ]
    _skip_layerwise_casting_patterns = [  # noqa: RUF012
        "patch_embedding",
        "patch_short",
        "patch_mid",
        "patch_long",
        "condition_embedder",
        "norm",
    ]

    @register_to_config
    def __init__(  # noqa: PLR0913, PLR0917 - the checkpoint's configuration keys
        self,
        patch_size: Sequence[int] = (1, 2, 2),
        num_attention_heads: int = 40,
        attention_head_dim: int = 128,
        in_channels: int = 16,
        out_channels: int = 16,
        text_dim: int = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 13824,
        num_layers: int = 40,
        cross_attn_norm: bool = True,  # noqa: FBT001, FBT002
        qk_norm: str | None = "rms_norm_across_heads",
        eps: float = 1e-6,
        added_kv_proj_dim: int | None = None,
        rope_dim: Sequence[int] = (44, 42, 42),
        rope_theta: float = 10000.0,
        guidance_cross_attn: bool = True,  # noqa: FBT001, FBT002
        zero_history_timestep: bool = True,  # noqa: FBT001, FBT002
        has_multi_term_memory_patch: bool = True,  # noqa: FBT001, FBT002
        is_amplify_history: bool = False,  # noqa: FBT001, FBT002
        history_scale_mode: ScaleMode = "per_head",
    ) -> None:
        super().__init__()
        _check_config(attention_head_dim, qk_norm, added_kv_proj_dim, rope_dim)
        dim = num_attention_heads * attention_head_dim
        t, h, w = patch_size
        self.patch = (t, h, w)
        self.rotary_config = RotaryConfig((rope_dim[0], rope_dim[1], rope_dim[2]), rope_theta)
        self.history_is_clean = zero_history_timestep
        self.patch_embedding = patch_conv(in_channels, dim, self.patch, 1)
        if has_multi_term_memory_patch:
            self.patch_short = patch_conv(in_channels, dim, self.patch, 1)
            self.patch_mid = patch_conv(in_channels, dim, self.patch, 2)
            self.patch_long = patch_conv(in_channels, dim, self.patch, 4)
        self.condition_embedder = ConditionEmbedder(dim, freq_dim, text_dim)
        block = BlockConfig(
            dim=dim,
            num_heads=num_attention_heads,
            ffn_dim=ffn_dim,
            eps=eps,
            has_text_norm=cross_attn_norm,
            history_reads_text=not guidance_cross_attn,
            history_scale=history_scale_mode if is_amplify_history else None,
        )
        self.blocks = nn.ModuleList([TransformerBlock(block) for _ in range(num_layers)])
        self.norm_out = OutputNorm(dim, eps)
        self.proj_out = nn.Linear(dim, (out_channels or in_channels) * math.prod(self.patch))
        self.gradient_checkpointing = False
        self.lean: SamplingBlocks | None = None

    def run_lean(self) -> bool:
        """Sample by `model/lean.py` from now on where that can be done: plain blocks on a CPU; says whether."""
        self.lean = LeanBlocks(self.blocks) if can_run_lean(self.blocks) else None
        return self.lean is not None

    def forward(
        self,
        x: Float[Tensor, "b c t h w"],
        timestep: float | Float[Tensor, " b"],
        text: Float[Tensor, "b l d_text"],
        tiers: Tiers | None = None,
        memos: Memos | None = None,
    ) -> Float[Tensor, "b c t h w"]:
        """Velocity of the chunk `x` at `timestep` in [0, 1000], in the dtype of `x`.

        Args:
            x: the noisy chunk at any pyramid level; height and width multiples of the patch.
            timestep: one plain number for the batch (remembered in `memos`), or one per sample.
            text: text embeddings, padded rows zero.
            tiers: the history at full resolution, in the dtype of `x`; None for a model without memory.
            memos: where results that outlive this call are kept: tables for ever, text keys while the prompt lasts,
                history tokens while the chunk lasts. None remembers nothing (training).
        """
        return self._denoise(Part(x, timestep), text, tiers, memos or Memos.forgetful(), ())[0]

    def forward_with_features(
        self,
        x: Float[Tensor, "b c t h w"],
        timestep: float | Float[Tensor, " b"],
        text: Float[Tensor, "b l d_text"],
        tiers: Tiers | None,
        blocks: tuple[int, ...],
    ) -> tuple[Float[Tensor, "b c t h w"], tuple[Float[Tensor, "b d t2 h2 w2"], ...]]:
        """The velocity of `forward` and, on their token grid, the chunk's tokens after each of `blocks` (from 0)."""
        return self._denoise(Part(x, timestep), text, tiers, Memos.forgetful(), blocks)

    def forward_packed(
        self, parts: Sequence[Part], text: Float[Tensor, "b l d_text"], tiers: Tiers | None = None
    ) -> tuple[Float[Tensor, "b c t h w"], ...]:
        """Velocities of several chunks after one history, in one pass; each is what `forward` gives for it alone.

        The parts may lie on different pyramid levels and timesteps. Each has its own copy of the history tokens.
        """
        memo = Forgetful()
        chunks, grids = zip(*(to_tokens(self.patch_embedding, part.x) for part in parts), strict=True)
        past = None if tiers is None else self._history(tiers)
        tokens = torch.cat([_after(past, chunk) for chunk in chunks], dim=1)
        rotary = Rotary.join([self._rotary(tiers, grid, tokens.device) for grid in grids])
        layouts = [self._layout(past, chunk, part, memo) for chunk, part in zip(chunks, parts, strict=True)]
        layout = TokenLayout.join(layouts)
        history = PastSource(memo, 0, None, self.history_is_clean)
        tokens, _ = self._run_blocks(tokens, layout, rotary, text, memo, history, ())
        sequences = zip(layout.read.split_sequences(tokens), layouts, grids, strict=True)
        return tuple(self._leave(*sequence) for sequence in sequences)

    def remember(
        self,
        x: Float[Tensor, "b c t h w"],
        timestep: float,
        text: Float[Tensor, "b l d_text"],
        tiers: Tiers | None,
        memos: Memos,
    ) -> None:
        """Fill the memos with all that `forward` with these arguments would recall, without running the blocks.

        For whoever replays a recorded forward. Libraries that move weights do not see this call.
        """
        grid = self._grid(x)
        rotary = memos.model.recall(_streams(tiers, grid), lambda: self._rotary(tiers, grid, x.device))
        self._time(timestep, x, memos.model)
        if not memos.prompt.holds(("keys", len(self.blocks) - 1)):
            projected = self.condition_embedder.text(text)
            for index, block in enumerate(self._blocks()):
                TextSource(index, projected, memos.prompt).keys(block.attn2)
        if tiers is None:
            return
        past = memos.chunk.recall("history", lambda: self._history(tiers))
        if self.history_is_clean:
            length = past.shape[1]
            layout = TokenLayout((Stretch(length, self._time(0.0, x, memos.model), is_history=True),), (length,))
            first = self._blocks()[0]
            samples = past.expand(x.shape[0], -1, -1)
            memos.chunk.recall(
                constant_key(x.shape[0]), lambda: first.history_rows(samples, layout, rotary.first(length))
            )

    def noted(self, x: Float[Tensor, "b c t h w"], tiers: Tiers | None, memos: Memos) -> Noted | None:
        """The history's rows that `forward` with these arguments takes over, or notes where they are not known yet.

        None where it shares none with other calls.
        """
        return None if tiers is None else noted_for(memos, self._grid(x), len(self.blocks))

    def _grid(self, x: Tensor) -> Grid:
        t, h, w = self.patch
        return Grid(-(-x.shape[2] // t), -(-x.shape[3] // h), -(-x.shape[4] // w))

    def _blocks(self) -> "list[TransformerBlock]":
        return list(self.blocks)  # pyright: ignore[reportReturnType] - a list of modules does not know their class

    def init_tier_patches(self) -> None:
        """Start the tier patches from the patch embedding: each token the mean of the short tokens it stands for."""
        init_tier_patches(self.patch_embedding, self.patch_short, self.patch_mid, self.patch_long)

    def _denoise(
        self, part: Part, text: Tensor, tiers: Tiers | None, memos: Memos, blocks: tuple[int, ...]
    ) -> tuple[Float[Tensor, "b c t h w"], tuple[Float[Tensor, "b d t2 h2 w2"], ...]]:
        """Velocity of one chunk, and its tokens after each of `blocks`."""
        chunk, grid = to_tokens(self.patch_embedding, part.x)
        rotary = memos.model.recall(_streams(tiers, grid), lambda: self._rotary(tiers, grid, chunk.device))
        noted = self.noted(part.x, tiers, memos)
        if tiers is None or (noted is not None and noted.is_known):
            past, rotary = None, rotary.last(chunk.shape[1])
        else:
            past = memos.chunk.recall("history", lambda: self._history(tiers))
        layout = self._layout(past, chunk, part, memos.model)
        if self._runs_lean(part, noted, blocks):
            assert self.lean is not None
            rows = self._lean_rows(self.lean, past is not None, part, memos.model)
            tokens = self.lean(past, chunk, rows, rotary, self._text_sources(text, memos.prompt))
            return self._leave(tokens, layout, grid), ()
        history = PastSource(memos.chunk, 0 if past is None else past.shape[1], noted, self.history_is_clean)
        tokens, kept = self._run_blocks(_after(past, chunk), layout, rotary, text, memos.prompt, history, blocks)
        chunks = (k[:, -chunk.shape[1] :] for k in kept)
        features = (rearrange(k, "b (t h w) d -> b d t h w", t=grid.t, h=grid.h, w=grid.w) for k in chunks)
        return self._leave(tokens, layout, grid), tuple(features)

    def _runs_lean(self, part: Part, noted: Noted | None, blocks: tuple[int, ...]) -> bool:
        """Whether this call can go through the lean blocks, which sample exactly and know nothing else."""
        is_sampling = not torch.is_grad_enabled() and not isinstance(part.timestep, Tensor)
        return self.lean is not None and is_sampling and noted is None and not blocks

    def _history(self, tiers: Tiers) -> Float[Tensor, "b n d"]:
        """History tokens in sequence order: long, mid, short."""
        if not hasattr(self, "patch_long"):
            raise CheckpointError("this model has no memory patches, so it cannot take a history; pass tiers=None")
        parts = (
            to_tokens(conv, tier.latents)[0]
            for conv, tier in (
                (self.patch_long, tiers.long),
                (self.patch_mid, tiers.mid),
                (self.patch_short, tiers.short),
            )
        )
        return torch.cat(list(parts), dim=1)

    def _rotary(self, tiers: Tiers | None, grid: Grid, device: torch.device) -> Rotary:
        """Positions of all tokens: history first, then the chunk."""
        frames = tiers.chunk_frames if tiers else tuple(range(grid.t))
        chunk = flatten_table(rotary_table(frames, grid.h, grid.w, self.rotary_config, device))
        return Rotary.join([history_rotary(tiers, self.patch, self.rotary_config), chunk]) if tiers else chunk

    def _layout(self, past: Tensor | None, chunk: Tensor, part: Part, memo: Memo) -> TokenLayout:
        """History modulated as clean (timestep 0) where the model was trained so, the chunk by its timestep."""
        time = self._time(part.timestep, part.x, memo)
        stretches = (Stretch(chunk.shape[1], time, is_history=False),)
        if past is not None:
            clean = self._time(0.0, part.x, memo) if self.history_is_clean else time
            stretches = (Stretch(past.shape[1], clean, is_history=True), *stretches)
        return TokenLayout(stretches, (sum(stretch.length for stretch in stretches),))

    def _lean_rows(self, lean: SamplingBlocks, has_past: bool, part: Part, memo: Memo) -> list[Any]:  # noqa: FBT001
        """Modulation of the history, where there is one, and of the chunk."""
        clean = 0.0 if self.history_is_clean else part.timestep
        return [
            memo.recall(("rows", timestep), lambda t=timestep: lean.rows(self._time(t, part.x, memo)))
            for timestep in ((clean, part.timestep) if has_past else (part.timestep,))
        ]

    def _time(self, timestep: float | Tensor, x: Tensor, memo: Memo) -> TimeRow:
        if isinstance(timestep, Tensor):
            return self.condition_embedder.time(timestep.float(), x.dtype)
        return memo.recall(
            ("time", timestep),
            lambda: self.condition_embedder.time(torch.full((1,), timestep, device=x.device), x.dtype),
        )

    def _run_blocks(
        self,
        tokens: Tensor,
        layout: TokenLayout,
        rotary: Rotary,
        text: Tensor,
        memo: Memo,
        history: PastSource,
        kept: tuple[int, ...],
    ) -> tuple[Float[Tensor, "b m d"], list[Float[Tensor, "b _ d"]]]:
        """The tokens that are read after the last block, and all tokens after each of the blocks `kept`."""
        outputs: dict[int, Tensor] = {}
        for index, (block, source) in enumerate(zip(self.blocks, self._text_sources(text, memo), strict=True)):
            run = partial(checkpoint, block, use_reentrant=False) if self._saves_memory() else block
            leaving = layout.read if index == len(self.blocks) - 1 else layout
            tokens = run(tokens, layout, rotary, source, leaving, history.of(index))
            if index in kept:
                outputs[index] = tokens
        return tokens, [outputs[index] for index in kept]

    def _text_sources(self, text: Tensor, memo: Memo) -> list[TextSource]:
        """The text for each block; it is projected only if a block may still need it."""
        has_keys = memo.holds(("keys", len(self.blocks) - 1))
        projected = None if has_keys else self.condition_embedder.text(text)
        return [TextSource(index, projected, memo) for index in range(len(self.blocks))]

    def _leave(self, tokens: Tensor, layout: TokenLayout, grid: Grid) -> Float[Tensor, "b c t h w"]:
        """Velocity of the chunk, whose tokens are the last stretch of a sequence."""
        chunk = layout.stretches[-1]
        out = self.norm_out(tokens[:, -chunk.length :], chunk.time).to(self.proj_out.weight.dtype)
        return from_tokens(self.proj_out(out), grid, self.patch)

    def _saves_memory(self) -> bool:
        """Whether blocks are computed again in the backward pass; switched by `enable_gradient_checkpointing`."""
        return self.gradient_checkpointing and torch.is_grad_enabled()


def _after(past: Tensor | None, chunk: Tensor) -> Float[Tensor, "b n d"]:
    """The chunk's tokens after those of the history, where there is one."""
    return chunk if past is None else torch.cat([past.expand(chunk.shape[0], -1, -1), chunk], dim=1)


def _streams(tiers: Tiers | None, grid: Grid) -> tuple[Hashable, ...]:
    """What the rotary table of a call depends on: frame indices and sizes of all streams."""
    if tiers is None:
        return ("rotary", grid)
    streams = tuple((tier.frames, tier.latents.shape[-2:]) for tier in (tiers.long, tiers.mid, tiers.short))
    return ("rotary", grid, tiers.chunk_frames, streams)


def _check_config(head_dim: int, qk_norm: str | None, added_kv_proj_dim: int | None, rope_dim: Sequence[int]) -> None:
    if len(rope_dim) != 3 or sum(rope_dim) != head_dim or any(d % 2 for d in rope_dim):
        raise CheckpointError(f"rope_dim={rope_dim} must be three even numbers whose sum is the head width {head_dim}")
    if qk_norm != "rms_norm_across_heads":
        raise CheckpointError(f"qk_norm={qk_norm!r} is not known; Helios uses 'rms_norm_across_heads'")
    if added_kv_proj_dim is not None:
        raise CheckpointError(
            f"added_kv_proj_dim={added_kv_proj_dim} asks for image keys, which no Helios model uses; set it to null"
        )
