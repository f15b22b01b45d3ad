"""From pixels to coloured blobs: which pixels belong to a subject, of which colour, and where the subjects are.

Plain colour tables, smoothing and connected components; nothing is learned. A clip is read at a height of 64 pixels,
whatever its size, which also takes out most of its noise.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray as Array
from torch import Tensor
from torch.nn import functional

from heliograph.data.diorama.draw import colours
from heliograph.data.diorama.palette import LIGHT, SUBJECT
from heliograph.data.diorama.record import COLOURS, LIVES_IN, Record, Scene, Time
from heliograph.data.diorama.render import backdrop
from heliograph.data.diorama.subjects import tones

GRID = 64
"""Height in pixels at which clips are read."""

BANDS = 4
"""Horizontal bands of the picture with a colour table each."""

LEVELS = 32
"""Levels of red, of green and of blue in a colour table."""

SEEDS = 12
"""Layouts of a scene from which its usual colours are taken."""


def shrink(clip: UInt8[Array, "f h w 3"]) -> Float[Tensor, "f 3 g v"]:
    """The clip in [0, 1] at a height of 64 pixels, each the mean of the pixels it covers."""
    frames = torch.from_numpy(clip).permute(0, 3, 1, 2).float() / 255
    width = max(1, round(GRID * clip.shape[2] / clip.shape[1]))
    return functional.interpolate(frames, size=(GRID, width), mode="area")


def examples(scene: Scene, time: Time) -> Float[Tensor, "b 3 64 64"]:
    """Empty pictures of a scene at an hour, in [0, 1]: its usual colours."""
    records = [
        Record(scene, LIVES_IN[scene][0], "red", 1, "small", "left", "slow", time, "none", seed)
        for seed in range(SEEDS)
    ]
    return backdrop(records, first=24, height=GRID, width=GRID).float() / 255


@dataclass(frozen=True)
class Sight:
    """What is known of a scene at an hour before a clip is seen.

    Attributes:
        usual: `look` of some empty pictures.
        table: for each band and each of 32 x 32 x 32 colours, 0 for scenery or 1 + the number of a subject colour.
    """

    usual: Float[Tensor, "b 3 r"]
    table: UInt8[Tensor, "4 32768"]


def sight(scene: Scene, time: Time) -> Sight:
    """Colour tables that tell the eight subject colours from a scene's own: each goes to the nearest of either."""
    pictures = examples(scene, time)
    steps = (torch.arange(LEVELS) + 0.5) / LEVELS
    every = torch.cartesian_prod(steps, steps, steps)
    body = colours([SUBJECT[colour] for colour in COLOURS], every.device)
    light = torch.tensor(LIGHT[time]).expand(len(COLOURS), 3)
    parts = tones(body, light)
    inks = _inks(parts)
    own = torch.cdist(every, inks.flatten(0, 1)).unflatten(1, inks.shape[:2]).amin(2)
    gear = torch.cat([parts[name][:1] for name in ("wood", "beak", "pupil")])
    broad = functional.avg_pool2d(pictures, 3, 1)  # stars and bubbles are too small to be taken for a subject
    tables = []
    for band in range(BANDS):
        low, high = max(0, (band - 1) * GRID // BANDS), (band + 2) * GRID // BANDS
        scenery = torch.cat([_typical(broad[:, :, low:high]), gear])
        away = torch.cdist(every, scenery).amin(1)
        best, which = own.min(1)
        tables.append(torch.where(best < away, which + 1, 0).to(torch.uint8))
    return Sight(look(pictures), torch.stack(tables))


def _inks(parts: dict[str, Float[Tensor, "8 3"]]) -> Float[Tensor, "8 i 3"]:
    """The colours by which each subject is known: its parts, blurred with its outline, and too bright by a tenth."""
    inks = [parts["main"], parts["light"], parts["shade"]]
    inks += [torch.lerp(part, parts["dark"], 0.2) for part in inks[:2]]
    inks += [(1.12 * part).clamp_max(1) / 1.12 for part in inks[:2]]
    return torch.stack(inks, 1)


def _typical(pictures: Float[Tensor, "b 3 g v"]) -> Float[Tensor, "n 3"]:
    """The colours that occur, rounded to 20 levels a channel."""
    levels = (pictures.movedim(1, -1).flatten(0, 2) * 19).round()
    return torch.unique(levels, dim=0) / 19


def look(pictures: Float[Tensor, "b 3 g v"]) -> Float[Tensor, "b 3 r"]:
    """Median colour of each pair of rows: subjects, sun and clouds seldom change it."""
    return pictures.median(3).values.unflatten(2, (GRID // 2, 2)).mean(3)


def clip_look(frames: Float[Tensor, "f 3 g v"]) -> Float[Tensor, "3 r"]:
    """The median over time of the looks of its frames."""
    return look(frames).median(0).values


def unlike(seen: Float[Tensor, "3 r"], usual: Float[Tensor, "b 3 r"]) -> tuple[float, float]:
    """How far a clip's look is from the most similar of some usual ones, and how much brighter it is than that.

    A brightness of .85 to 1.15 makes no distance.
    """
    gain = ((usual * seen).sum((1, 2)) / usual.square().sum((1, 2))).clamp(0.85, 1.15)
    away = (gain[:, None, None] * usual - seen).square().mean((1, 2)).sqrt()
    nearest = int(away.argmin())
    return float(away[nearest]), float(gain[nearest])


def label(frames: Float[Tensor, "f 3 g v"], known: Sight) -> UInt8[Tensor, "f g v"]:
    """For each pixel 0 for scenery, or 1 + the number of the subject colour it shows."""
    codes = _codes(frames / unlike(clip_look(frames), known.usual)[1])
    bands = torch.arange(codes.shape[1]) * BANDS // codes.shape[1]
    return known.table[bands[:, None], codes]


def label_detail(frames: Float[Tensor, "f 3 g v"], known: Sight) -> UInt8[Tensor, "f g v"]:
    """The same for pictures of the right brightness that show a part of the second band, where most subjects are."""
    return known.table[1][_codes(frames)]


def _codes(frames: Float[Tensor, "f 3 g v"]) -> Int[Tensor, "f g v"]:
    """Each pixel's place in a colour table."""
    levels = frames.mul(LEVELS).long().clamp_(0, LEVELS - 1)
    return (levels[:, 0] * LEVELS + levels[:, 1]) * LEVELS + levels[:, 2]


def votes(labels: UInt8[Tensor, "f g v"]) -> Float[Tensor, " 8"]:
    """Pixels of each subject colour in all frames, counting only those in compact patches."""
    own = torch.stack([labels == number + 1 for number in range(len(COLOURS))], 1).float()
    dense = functional.avg_pool2d(own, 5, 1, 2, count_include_pad=False)
    return (own * (dense > 0.55)).sum((0, 2, 3))


def body_mask(labels: UInt8[Tensor, "f g v"], colour: int) -> Bool[Tensor, "f g v"]:
    """Where subjects of a colour are: their pixels, with small gaps and details filled."""
    own = (labels == colour + 1).float()[:, None]
    filled = -functional.max_pool2d(-functional.max_pool2d(own, 3, 1, 1), 3, 1, 1)
    near = functional.avg_pool2d(filled, 3, 1, 1, count_include_pad=False)
    return ((near > 0.5) & (filled > 0))[:, 0]


def components(mask: Bool[Tensor, "f g v"]) -> Int[Tensor, "f g v"]:
    """Number the connected parts of every frame: all pixels of a part carry the same number, 0 is outside."""
    numbers = (torch.arange(mask.numel()).reshape(mask.shape) + 1.0) * mask
    numbers = numbers.double()
    while True:
        spread = functional.max_pool2d(numbers[:, None], 3, 1, 1)[:, 0] * mask
        spread = functional.max_pool2d(spread[:, None], 3, 1, 1)[:, 0] * mask
        if torch.equal(spread, numbers):
            return numbers.long()
        numbers = spread


@dataclass(frozen=True)
class Blobs:
    """The connected parts of all frames, one row each.

    Attributes:
        frame: which frame.
        x, y: centre of mass in picture heights.
        area: square picture heights.
        whole: it does not touch the picture's border.
        mask: the part alone, within its frame.
    """

    frame: Int[Tensor, " m"]
    x: Float[Tensor, " m"]
    y: Float[Tensor, " m"]
    area: Float[Tensor, " m"]
    whole: Bool[Tensor, " m"]
    mask: Bool[Tensor, "m g v"]

    def only(self, keep: Bool[Tensor, " m"]) -> "Blobs":
        """The rows that are wanted."""
        return Blobs(*(getattr(self, name)[keep] for name in ("frame", "x", "y", "area", "whole", "mask")))


def find(mask: Bool[Tensor, "f g v"], least: float) -> Blobs:
    """The connected parts of a mask whose area is at least `least` square picture heights."""
    numbers = components(mask)
    found, counts = torch.unique(numbers, return_counts=True)
    pixels = GRID * GRID
    found = found[(found > 0) & (counts >= least * pixels)]
    frame = (found - 1) // (mask.shape[1] * mask.shape[2])
    parts = numbers[frame] == found[:, None, None]
    down, across = ((torch.arange(side) + 0.5) / GRID for side in mask.shape[1:])
    size = parts.sum((1, 2)).clamp_min(1)
    return Blobs(
        frame=frame,
        x=(parts.sum(1).float() @ across) / size,
        y=(parts.sum(2).float() @ down) / size,
        area=size / pixels,
        whole=~(parts[:, 0].any(1) | parts[:, -1].any(1) | parts[:, :, 0].any(1) | parts[:, :, -1].any(1)),
        mask=parts,
    )
