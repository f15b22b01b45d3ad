"""The parts of AMT-S: encoders, decoder, correction, the likeness of all pairs of pixels, warping."""

from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

LEVELS, RADIUS = 4, 3
"""Of the likeness: how often it is halved, and how far about a place it is looked up."""

Map = Float[Tensor, "b c h w"]


def sized(x: Map, factor: float) -> Float[Tensor, "b c h2 w2"]:
    """Enlarged or shrunk (bilinear)."""
    return functional.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def pixel_grid(like: Map) -> Float[Tensor, "1 2 h w"]:
    """The place of each pixel, (right, down)."""
    height, width = like.shape[-2:]
    down, across = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([across, down])[None].to(like)


def warp(picture: Float[Tensor, "b c h w"], flow: Float[Tensor, "b 2 h w"]) -> Float[Tensor, "b c h w"]:
    """What is found in `picture` where each pixel's `flow` (right, down, in pixels) points; the border goes on."""
    return _sampled(picture, rearrange(pixel_grid(flow) + flow, "b c h w -> b h w c"), "border")


def _sampled(picture: Map, places: Float[Tensor, "b i j 2"], padding: str) -> Float[Tensor, "b c i j"]:
    """The picture between its pixels, at places (right, down) in pixels."""
    height, width = picture.shape[-2:]
    span = torch.tensor([max(width - 1, 1), max(height - 1, 1)]).to(places)
    return functional.grid_sample(picture, 2 * places / span - 1, padding_mode=padding, align_corners=True)


class Bottleneck(nn.Module):
    """Three convolutions through a quarter of the channels, each normalised, added to what came in."""

    def __init__(self, num_in: int, num_out: int, stride: int) -> None:
        super().__init__()
        inner = num_out // 4
        self.conv1, self.conv3 = nn.Conv2d(num_in, inner, 1), nn.Conv2d(inner, num_out, 1)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1)
        wide = nn.Conv2d(num_in, num_out, 1, stride)
        self.downsample = nn.Sequential(wide, nn.InstanceNorm2d(num_out)) if stride > 1 else None

    def forward(self, x: Map) -> Float[Tensor, "b c2 h2 w2"]:
        """Height and width are divided by the stride."""
        y = x
        for layer in (self.conv1, self.conv2, self.conv3):
            y = functional.relu(functional.instance_norm(layer(y)))
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)))


class FeatureEncoder(nn.Module):
    """Features by which pixels are compared, at an eighth of the size."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 7, 2, 3)
        self.layer1 = nn.Sequential(Bottleneck(32, 32, 1), Bottleneck(32, 32, 1))
        self.layer2 = nn.Sequential(Bottleneck(32, 64, 2), Bottleneck(64, 64, 1))
        self.layer3 = nn.Sequential(Bottleneck(64, 96, 2), Bottleneck(96, 96, 1))
        self.conv2 = nn.Conv2d(96, num_features, 1)

    def forward(self, x: Map) -> Float[Tensor, "b e h2 w2"]:
        """Of centred pictures."""
        x = functional.relu(functional.instance_norm(self.conv1(x)))
        return self.conv2(self.layer3(self.layer2(self.layer1(x))))


def _convolution(num_in: int, num_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(num_in, num_out, 3, stride, 1), nn.PReLU(num_out))


class PyramidEncoder(nn.Module):
    """Features at a half, a quarter, an eighth and a sixteenth of the size."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        for level, (num_in, num_out) in enumerate(zip((3, *channels[:-1]), channels, strict=True), start=1):
            parts = nn.Sequential(_convolution(num_in, num_out, 2), _convolution(num_out, num_out))
            self.add_module(f"pyramid{level}", parts)

    def forward(self, x: Map) -> list[Tensor]:
        """Fine to coarse."""
        found = []
        for part in self.children():
            x = part(x)
            found.append(x)
        return found


class SideBlock(nn.Module):
    """Five convolutions, two of which see only the last channels; added to what came in."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.conv1, self.conv3 = _convolution(channels, channels), _convolution(channels, channels)
        self.conv2, self.conv4 = _convolution(side, side), _convolution(side, side)
        self.conv5 = nn.Conv2d(channels, channels, 3, 1, 1)
        self.prelu = nn.PReLU(channels)
        self.side = side

    def forward(self, x: Map) -> Map:
        """The same size."""
        y = self.conv1(x)
        y = self.conv3(torch.cat([y[:, : -self.side], self.conv2(y[:, -self.side :])], dim=1))
        y = self.conv5(torch.cat([y[:, : -self.side], self.conv4(y[:, -self.side :])], dim=1))
        return self.prelu(x + y)


class Decoder(nn.Module):
    """What is seen on one scale to motions and features on the next finer one."""

    def __init__(self, inner: int, extra: int, num_out: int, side: int) -> None:
        """`inner` channels of features and `extra` ones (the time, or the motions) come in."""
        super().__init__()
        self.convblock = nn.Sequential(
            _convolution(inner + extra, inner), SideBlock(inner, side), nn.ConvTranspose2d(inner, num_out, 4, 2, 1)
        )

    def forward(self, x: Map) -> Float[Tensor, "b c2 h2 w2"]:
        """Twice the size."""
        return self.convblock(x)


class Update(nn.Module):
    """Corrections of features and motions on one scale, worked out at an eighth of the picture's size."""

    def __init__(self, channels: int, scale: int) -> None:
        super().__init__()
        hidden, flow, likeness, together = 76, 20, 64, 68
        self.scale = scale
        self.convc1 = nn.Conv2d(2 * LEVELS * (2 * RADIUS + 1) ** 2, likeness, 1)
        self.convf1, self.convf2 = nn.Conv2d(4, 2 * flow, 7, 1, 3), nn.Conv2d(2 * flow, flow, 3, 1, 1)
        self.conv = nn.Conv2d(likeness + flow, together, 3, 1, 1)
        self.gru = self._head(together + 4 + channels, hidden, hidden)
        self.feat_head = self._head(hidden, hidden, channels)
        self.flow_head = self._head(hidden, hidden, 4)

    @staticmethod
    def _head(num_in: int, hidden: int, num_out: int) -> nn.Sequential:
        parts = nn.Conv2d(num_in, hidden, 3, 1, 1), nn.LeakyReLU(0.1), nn.Conv2d(hidden, num_out, 3, 1, 1)
        return nn.Sequential(*parts)

    def forward(
        self, features: Map, flow: Float[Tensor, "b 4 h2 w2"], likeness: Float[Tensor, "b n h2 w2"]
    ) -> tuple[Map, Float[Tensor, "b 4 h w"]]:
        """Both at the size of the features."""

        def bent(x: Tensor) -> Tensor:
            return functional.leaky_relu(x, 0.1)

        small = sized(features, 1 / self.scale) if self.scale > 1 else features
        motion = bent(self.convf2(bent(self.convf1(flow))))
        seen = bent(self.conv(torch.cat([bent(self.convc1(likeness)), motion], dim=1)))
        state = self.gru(torch.cat([seen, flow, small], dim=1))
        more_features, more_flow = self.feat_head(state), self.flow_head(state)
        if self.scale > 1:
            return sized(more_features, float(self.scale)), self.scale * sized(more_flow, float(self.scale))
        return more_features, more_flow


class Correlation:
    """How like each pixel of one frame is to each of the other, both ways, at four sizes."""

    def __init__(self, first: Map, second: Map) -> None:
        features = first.shape[1]
        likeness = torch.einsum("b c i j, b c k l -> b i j k l", first, second) / features**0.5
        self.there = self._halved(rearrange(likeness, "b i j k l -> (b i j) 1 k l"))
        self.back = self._halved(rearrange(likeness, "b i j k l -> (b k l) 1 i j"))

    def about(
        self, in_second: Float[Tensor, "b 2 h w"], in_first: Float[Tensor, "b 2 h w"]
    ) -> Float[Tensor, "b n h w"]:
        """The likeness of each pixel of the first frame about a place in the second, and the other way."""
        return torch.cat([self._looked_up(self.there, in_second), self._looked_up(self.back, in_first)], dim=1)

    @staticmethod
    def _halved(likeness: Tensor) -> list[Tensor]:
        levels = [likeness]
        for _ in range(LEVELS - 1):
            levels.append(functional.avg_pool2d(levels[-1], 2, 2))
        return levels

    @staticmethod
    def _looked_up(levels: list[Tensor], places: Float[Tensor, "b 2 h w"]) -> Float[Tensor, "b n h w"]:
        b, _, h, w = places.shape
        centres = rearrange(places, "b c h w -> (b h w) 1 1 c")
        side = torch.linspace(-RADIUS, RADIUS, 2 * RADIUS + 1, device=places.device)
        # The released network was trained with the two offsets in this order, (down, right).
        offsets = torch.stack(torch.meshgrid(side, side, indexing="ij"), dim=-1)[None]
        found = [_sampled(one, centres / 2**level + offsets, "zeros") for level, one in enumerate(levels)]
        return torch.cat([rearrange(one, "(b h w) 1 i j -> b (i j) h w", b=b, h=h, w=w) for one in found], dim=1)
