"""The Wan decoder in few passes: latent frame 0 alone, then all others at once, in half precision where asked.

The library decodes one latent frame at a time in float32. Its causal convolutions see two frames of the past, so more
frames to a pass change nothing but the order of sums (to 1e-12 in float64), and float16, which has the ten mantissa
bits of the TF32 that the released engine multiplies in, keeps 55 dB and more against float32.
"""

import math
from collections.abc import Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from heliograph.kernels.choice import kernels_for
from heliograph.shapes import CHUNK_LATENTS, FRAME_STRIDE
from heliograph.transfer import current_device_of

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

PAST_FRAMES = 2
"""Frames before the first that a causal convolution of three frames reads."""

FEATURES_ALIVE = 7.2
"""Tensors of the widest kind, those at full resolution, that are alive at a time; one latent frame more is the past.

Counted on fake tensors, see `test_a_pass_takes_no_more_memory_than_is_said`.
"""

Features = Float[Tensor, "_ _ _ _ _"]
"""Batch, channels, frames, rows, columns; most steps change some of them."""


class Carry:
    """The last two input frames of every causal convolution, from one pass to the next."""

    def __init__(self) -> None:
        self.is_first = True
        self._kept: dict[nn.Module, Tensor] = {}

    def past(self, conv: nn.Module, x: Features) -> Features:
        """The past of a convolution's input `x`; zeros before the first."""
        if conv in self._kept:
            return self._kept[conv]
        b, c, _, h, w = x.shape
        zeros = torch.empty(
            (b, c, PAST_FRAMES, h, w), dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d
        )
        return zeros.zero_()

    def keep(self, conv: nn.Module, inputs: Features) -> None:
        """Remember the end of what a convolution read: a copy, so that the features of this pass can be freed."""
        self._kept[conv] = inputs[:, :, -PAST_FRAMES:].clone()


class WanDecoder:
    """Decodes as `AutoencoderKLWan.decode` does, with a copy of its decoder's weights in `dtype`, channels-last."""

    def __init__(self, autoencoder: "AutoencoderKLWan", dtype: torch.dtype, lengths: Sequence[int]) -> None:
        """`lengths` are latent frames to a pass, 1 first; the last one is repeated as often as a chunk needs."""
        assert can_walk(autoencoder), "only the decoder of Wan 2.1"
        assert lengths[0] == 1, f"the first pass takes latent frame 0 alone, not {lengths[0]}"
        self.dtype = dtype
        self.lengths = tuple(lengths)
        self._enter = _copied(autoencoder.post_quant_conv, dtype)
        self._decoder = _copied(autoencoder.decoder, dtype)

    @torch.no_grad()
    def decode(self, z: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b 3 f h8 w8"]:
        """The 1 + 4·(t − 1) frames of latents that are not normalised, in [-1, 1], in the dtype of this decoder."""
        z = z.to(self.dtype).contiguous(memory_format=torch.channels_last_3d)
        # Shapes are the same for every chunk, so cuDNN's search for the fastest convolution is made once.
        with current_device_of(z), torch.backends.cudnn.flags(enabled=True, benchmark=True):
            latents, carry, frames = F.conv3d(z, self._enter.weight, self._enter.bias), Carry(), []
            for stretch in latents.split(_fitted(self.lengths, z.shape[2]), dim=2):
                frames.append(self._pass(stretch, carry))
                carry.is_first = False
            return torch.cat(frames, dim=2).clamp(-1, 1)

    def _pass(self, x: Features, carry: Carry) -> Features:
        decoder = self._decoder
        x = _causal(decoder.conv_in, torch.cat([carry.past(decoder.conv_in, x), x], dim=2), carry)
        x = kernels_for(x).add_bias(x, decoder.conv_in.bias)
        x = _residual(decoder.mid_block.resnets[0], x, carry)
        for attention, residual in zip(decoder.mid_block.attentions, decoder.mid_block.resnets[1:], strict=True):
            x = _residual(residual, _attend(attention, x), carry)
        for block in decoder.up_blocks:
            for residual in block.resnets:
                x = _residual(residual, x, carry)
            if block.upsamplers is not None:
                x = _enlarge(block.upsamplers[0], x, carry)
        return kernels_for(x).add_bias(_active(decoder.norm_out, decoder.conv_out, x, carry), decoder.conv_out.bias)


def can_walk(autoencoder: object) -> bool:
    """Whether this is the autoencoder of Wan 2.1, whose decoder is known here; that of 2.2 has another shape."""
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan  # noqa: PLC0415 - slow to import

    if not isinstance(autoencoder, AutoencoderKLWan):
        return False
    config = autoencoder.config
    return not config["is_residual"] and config["patch_size"] is None and not config["attn_scales"]


def pass_bytes(lengths: Sequence[int], height: int, width: int, channels: int, dtype: torch.dtype) -> int:
    """Upper estimate of the memory that a pass of these takes, for a chunk of `height` × `width` pixels."""
    frames = (max(lengths) + 1) * FRAME_STRIDE
    return math.ceil(FEATURES_ALIVE * frames * height * width * channels * dtype.itemsize)


def passes_within(free_bytes: int, height: int, width: int, channels: int, dtype: torch.dtype) -> tuple[int, ...]:
    """The fewest passes whose features fit: [1, 8] where there is room, else 4, 2 or 1 latent frames to a pass."""
    rest = CHUNK_LATENTS - 1
    choices = [(1, *[size] * (rest // size)) for size in (8, 4, 2, 1)]
    fitting = [c for c in choices if pass_bytes(c, height, width, channels, dtype) <= free_bytes]
    return fitting[0] if fitting else choices[-1]


def _fitted(lengths: Sequence[int], count: int) -> list[int]:
    """`lengths` cut, or its last one repeated, to `count` latent frames in all."""
    fitted: list[int] = []
    while (left := count - sum(fitted)) > 0:
        fitted.append(min(left, lengths[min(len(fitted), len(lengths) - 1)]))
    return fitted


def _copied(module: nn.Module, dtype: torch.dtype) -> Any:
    """A copy of the module in `dtype`, the weights of its convolutions channels-last."""
    copied = deepcopy(module).to(dtype)
    for part in copied.modules():
        if isinstance(part, nn.Conv2d | nn.Conv3d):
            layout = torch.channels_last_3d if part.weight.ndim == 5 else torch.channels_last
            part.weight.data = part.weight.data.contiguous(memory_format=layout)
    return copied


def _active(norm: Any, conv: Any, x: Features, carry: Carry, bias: Tensor | None = None) -> Features:
    """Norm, SiLU, causal convolution without its bias; `bias` is what the convolution that made `x` left out."""
    return _causal(conv, kernels_for(x).norm_silu(x, norm.gamma.flatten(), carry.past(conv, x), bias), carry)


def _causal(conv: Any, inputs: Features, carry: Carry) -> Features:
    """A convolution over frames that already have their past in front, without its bias."""
    carry.keep(conv, inputs)
    spatial = conv.kernel_size[1] // 2
    return F.conv3d(inputs, conv.weight, padding=(0, spatial, spatial))


def _residual(block: Any, x: Features, carry: Carry) -> Features:
    inner = _active(block.norm1, block.conv1, x, carry)
    inner = _active(block.norm2, block.conv2, inner, carry, block.conv1.bias)
    return kernels_for(x).add_bias(inner, block.conv2.bias, block.conv_shortcut(x))


def _attend(block: Any, x: Features) -> Features:
    """Attention of one head among the cells of each frame."""
    t, h = x.shape[2], x.shape[3]
    wide = torch.promote_types(x.dtype, torch.float32)
    normed = (F.normalize(x.to(wide), dim=1) * x.shape[1] ** 0.5).to(x.dtype) * block.norm.gamma[:, None]
    query, key, value = rearrange(block.to_qkv(_frames(normed)), "n (s c) h w -> s n 1 (h w) c", s=3)
    mixed = F.scaled_dot_product_attention(query, key, value)
    return x + _clip(block.proj(rearrange(mixed, "n 1 (h w) c -> n c h w", h=h)), t)


def _enlarge(resample: Any, x: Features, carry: Carry) -> Features:
    """Twice the height and width, and twice the frames but for the very first latent frame."""
    kernels = kernels_for(x)
    if resample.mode == "upsample3d" and not carry.is_first:
        conv = resample.time_conv
        doubled = kernels.add_bias(_causal(conv, torch.cat([carry.past(conv, x), x], dim=2), carry), conv.bias)
        x = rearrange(doubled, "b (s c) t h w -> b c (t s) h w", s=2).contiguous(memory_format=torch.channels_last_3d)
    conv = resample.resample[1]
    drawn = F.conv2d(kernels.enlarge(_frames(x)), conv.weight, padding=conv.padding)
    return kernels.add_bias(_clip(drawn, x.shape[2]), conv.bias)


def _frames(x: Features) -> Float[Tensor, "_ _ _ _"]:
    """Single frames, without moving anything where features are channels-last."""
    return rearrange(x, "b c t h w -> (b t) c h w")


def _clip(x: Float[Tensor, "_ _ _ _"], num_frames: int) -> Features:
    return rearrange(x, "(b t) c h w -> b c t h w", t=num_frames)
