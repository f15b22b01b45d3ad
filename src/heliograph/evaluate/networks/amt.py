"""AMT-S, the frame between two frames (Li et al., "AMT: All-Flowss Multi-Field Transforms", CVPR 2023): the network.

Three scales from coarse to fine. On each, a decoder guesses the motion from the middle frame to either side and the
features in between; then the likeness of every pixel of one frame with every pixel of the other, looked up about where
that motion points, corrects both. The finest decoder gives several motions for each pixel, whose warped pictures are
blended. Parameters have the names of the released file `amt-s.pth`.
"""

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from heliograph.evaluate.networks.amt_parts import (
    Correlation,
    Decoder,
    FeatureEncoder,
    PyramidEncoder,
    Update,
    pixel_grid,
    sized,
    warp,
)

CHANNELS = (20, 32, 44, 56)
"""Of the pyramid, fine to coarse."""

SKIP = 20
"""Channels of the decoders' side paths."""

NUM_FLOWS = 3
"""Motions of each pixel on the finest scale."""

MULTIPLE = 16
"""Height and width must be a multiple of this."""

Picture = Float[Tensor, "b 3 h w"]
Flows = tuple[Float[Tensor, "b 2 i j"], Float[Tensor, "b 2 i j"]]
Ends = tuple[Picture, Picture]


class AmtS(nn.Module):
    """Two frames, in [0, 1], to the frame at half time between them."""

    def __init__(self) -> None:
        super().__init__()
        fine, second, third, coarse = CHANNELS
        self.feat_encoder = FeatureEncoder(84)
        self.encoder = PyramidEncoder(CHANNELS)
        self.decoder4 = Decoder(2 * coarse, 1, third + 4, SKIP)
        self.decoder3 = Decoder(3 * third, 4, second + 4, SKIP)
        self.decoder2 = Decoder(3 * second, 4, fine + 4, SKIP)
        self.decoder1 = Decoder(3 * fine, 4, 8 * NUM_FLOWS, SKIP)
        self.update4, self.update3, self.update2 = Update(third, 1), Update(second, 2), Update(fine, 4)
        self.comb_block = nn.Sequential(
            nn.Conv2d(3 * NUM_FLOWS, 6 * NUM_FLOWS, 3, 1, 1),
            nn.PReLU(6 * NUM_FLOWS),
            nn.Conv2d(6 * NUM_FLOWS, 3, 3, 1, 1),
        )

    def forward(self, before: Picture, after: Picture) -> Picture:
        """Height and width are multiples of 16."""
        mean = torch.cat([before, after], dim=2).mean(dim=(1, 2, 3), keepdim=True)
        ends = before - mean, after - mean
        maps = self.feat_encoder(torch.cat(ends)).chunk(2)
        likeness = Correlation(maps[0], maps[1])
        pyramids = self.encoder(ends[0]), self.encoder(ends[1])

        coarse = pyramids[0][3], pyramids[1][3]
        time = torch.full_like(coarse[0][:, :1], 0.5)
        flows, features = self._split(self.decoder4(torch.cat([*coarse, time], dim=1)))
        flows, features = self._correct(self.update4, likeness, flows, features, 1)
        for level, decoder, update, scale in ((2, self.decoder3, self.update3, 2), (1, self.decoder2, self.update2, 4)):
            guess = decoder(self._seen(features, pyramids, level, flows))
            larger = [2.0 * sized(flow, 2.0) for flow in flows]
            found, features = self._split(guess)
            flows = found[0] + larger[0], found[1] + larger[1]
            flows, features = self._correct(update, likeness, flows, features, scale)
        return self._blend(self.decoder1(self._seen(features, pyramids, 0, flows)), flows, ends, mean)

    @staticmethod
    def _split(guess: Float[Tensor, "b c i j"]) -> tuple[Flows, Float[Tensor, "b c2 i j"]]:
        """A decoder's answer: motion to the frame before, to the one after, features between."""
        return (guess[:, :2], guess[:, 2:4]), guess[:, 4:]

    @staticmethod
    def _seen(
        features: Float[Tensor, "b c i j"], pyramids: tuple[list[Tensor], list[Tensor]], level: int, flows: Flows
    ) -> Float[Tensor, "b c2 i j"]:
        """What a decoder sees: features between, those of both ends moved to the middle, and the motions."""
        moved = [warp(pyramid[level], flow) for pyramid, flow in zip(pyramids, flows, strict=True)]
        return torch.cat([features, *moved, *flows], dim=1)

    @staticmethod
    def _correct(
        update: Update, likeness: Correlation, flows: Flows, features: Float[Tensor, "b c i j"], scale: int
    ) -> tuple[Flows, Float[Tensor, "b c i j"]]:
        """Correct motions and features by the likeness where they point.

        A motion from the middle, doubled, is that from end to end.
        """
        small = [sized(flow, 1 / scale) / scale if scale > 1 else flow for flow in flows]
        grid = pixel_grid(small[0])
        seen = likeness.about(grid + 2.0 * small[1], grid + 2.0 * small[0])
        more_features, more_flow = update(features, torch.cat(small, dim=1), seen)
        return (flows[0] + more_flow[:, :2], flows[1] + more_flow[:, 2:]), features + more_features

    def _blend(
        self, guess: Float[Tensor, "b c h w"], flows: Flows, ends: Ends, mean: Float[Tensor, "b 1 1 1"]
    ) -> Picture:
        """Warp both ends by every motion, weigh them, add what is in neither, and take the mean."""
        n = NUM_FLOWS
        more, mask, rest = guess[:, : 4 * n].chunk(2, dim=1), guess[:, 4 * n : 5 * n].sigmoid(), guess[:, 5 * n :]
        moved = []
        for end, flow, extra in zip(ends, flows, more, strict=True):
            motions = rearrange(extra + 2.0 * sized(flow, 2.0).repeat(1, n, 1, 1), "b (n c) h w -> (b n) c h w", n=n)
            moved.append(warp(repeat(end, "b c h w -> (b n) c h w", n=n), motions))
        weight = rearrange(mask, "b n h w -> (b n) 1 h w")
        residue = rearrange(rest, "b (n c) h w -> (b n) c h w", n=n)
        blended = weight * moved[0] + (1 - weight) * moved[1] + repeat(mean, "b 1 1 1 -> (b n) 1 1 1", n=n) + residue
        every = rearrange(blended, "(b n) c h w -> b n c h w", n=n)
        return (every.mean(dim=1) + self.comb_block(every.flatten(1, 2))).clamp(0, 1)
