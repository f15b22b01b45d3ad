"""Drawing with distances: shapes are signed distances, their coverage is clamped over one pixel, so edges are smooth.

Everything is tensor arithmetic on `n` frames at once and runs on any device. Lengths are in picture heights unless a
function says otherwise; distances are negative inside a shape.

A canvas is `n 4 h w`: red, green, blue in [0, 1] and, last, the share of each pixel that belongs to a subject.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from heliograph.data.diorama.palette import rgb

Field = Float[Tensor, "..."]
"""A value at every point of a grid; the axes broadcast."""

Number = int | float | Tensor
"""One number for all, or a tensor that broadcasts with the grid."""


def cover(distance: Field, pixels: Number) -> Field:
    """Share of a pixel inside the shape, in [0, 1]; `pixels` is the number of pixels in one unit of distance."""
    return (distance * -pixels).add_(0.5).clamp_(0, 1)


def soft(distance: Field, width: Number) -> Field:
    """1 inside, falling smoothly to 0 over `width` outside."""
    ramp = (1 - distance / width).clamp_(0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def disc(x: Field, y: Field, radius: Number) -> Field:
    """Distance to a disc about the origin."""
    return torch.sqrt(x * x + y * y) - radius


def oval(x: Field, y: Field, half_x: Number, half_y: Number) -> Field:
    """Approximate distance to an ellipse about the origin, exact at its edge."""
    inner = torch.sqrt((x / half_x) ** 2 + (y / half_y) ** 2)
    slope = torch.sqrt((x / half_x**2) ** 2 + (y / half_y**2) ** 2)
    return inner * (inner - 1) / slope.clamp_min(1e-4)


def box(x: Field, y: Field, half_x: Number, half_y: Number, corner: float = 0.0) -> Field:
    """Distance to an upright rectangle with rounded corners; outside the corners it is a lower bound."""
    across, down = x.abs() - half_x + corner, y.abs() - half_y + corner
    outside = torch.sqrt(across.clamp_min(0) ** 2 + down.clamp_min(0) ** 2)
    return outside + torch.maximum(across, down).clamp_max(0) - corner


def limb(x: Field, y: Field, end_x: Number, end_y: Number, start_radius: Number, end_radius: Number) -> Field:
    """Distance to a rounded rod from the origin to (end_x, end_y) whose thickness changes evenly along it."""
    length = end_x * end_x + end_y * end_y + 1e-6
    along = ((x * end_x + y * end_y) / length).clamp_(0, 1)
    gap = torch.sqrt((x - end_x * along) ** 2 + (y - end_y * along) ** 2)
    return gap - (start_radius + along * (end_radius - start_radius))


def triangle(x: Field, y: Field, a: tuple[Number, Number], b: tuple[Number, Number], c: tuple[Number, Number]) -> Field:
    """Distance to the triangle a b c, whose corners go clockwise on the screen; a lower bound beyond its corners."""
    return torch.maximum(torch.maximum(half_plane(x, y, a, b), half_plane(x, y, b, c)), half_plane(x, y, c, a))


def half_plane(x: Field, y: Field, a: tuple[Number, Number], b: tuple[Number, Number]) -> Field:
    """Distance to the side of the line from a to b that lies on the right hand of who goes from a to b."""
    run, rise = b[0] - a[0], b[1] - a[1]
    length = (run * run + rise * rise) ** 0.5 + 1e-6
    return ((x - a[0]) * rise - (y - a[1]) * run) / length


def merge(*distances: Field) -> Field:
    """Distance to the union of shapes."""
    union = distances[0]
    for distance in distances[1:]:
        union = torch.minimum(union, distance)
    return union


def colours(codes: list[str], device: torch.device) -> Float[Tensor, "n 3"]:
    """The colours of a list of six-digit hexadecimal codes, in [0, 1]."""
    return torch.tensor([rgb(code) for code in codes], device=device)


def ink(colour: Float[Tensor, "*n 3"], alpha: float = 0.0) -> Float[Tensor, "*n 4 1 1"]:
    """A colour ready to be laid on a canvas; `alpha` is its share of the subject, 0 for scenery."""
    share = torch.full_like(colour[..., :1], alpha)
    return torch.cat([colour, share], -1)[..., None, None]


def lay(canvas: Float[Tensor, "n c h w"], colour: Field, coverage: Float[Tensor, "*n h w"]) -> None:
    """Cover the canvas in place with a colour (`c 1 1` or anything that broadcasts with it) to the given share."""
    canvas.lerp_(colour.expand_as(canvas), coverage[..., None, :, :].expand_as(canvas))


@dataclass(frozen=True)
class Window:
    """A small rectangle of every frame, in which one thing is drawn before it is laid over the canvas.

    Attributes:
        x, y: the pixels' places relative to the thing's centre.
        index: the pixels' numbers in a frame, row by row.
        pixels: pixels in one picture height.
        paint: what has been drawn: colour multiplied by coverage, subject share multiplied by coverage, coverage.
    """

    x: Float[Tensor, "n 1 q"]
    y: Float[Tensor, "n p 1"]
    index: Int[Tensor, "n pq"]
    pixels: float
    paint: Float[Tensor, "n 5 p q"]

    def lay(self, colour: Float[Tensor, "*m 4 1 1"], coverage: Float[Tensor, "n p q"]) -> None:
        """Draw in the window: cover what is there with a colour made by `ink`."""
        one = torch.ones_like(colour[..., :1, :, :])
        lay(self.paint, torch.cat([colour, one], -3), coverage)

    def paste(self, canvas: Float[Tensor, "n 4 h w"], opacity: float = 1.0) -> None:
        """Lay what has been drawn over the canvas, in place."""
        flat = canvas.flatten(2)
        index = self.index[:, None].expand(-1, flat.shape[1], -1)
        paint = self.paint.flatten(2) * opacity
        flat.scatter_(2, index, flat.gather(2, index) * (1 - paint[:, 4:]) + paint[:, :4])


def window(
    canvas: Float[Tensor, "n 4 h w"], x: Float[Tensor, " n"], y: Float[Tensor, " n"], half_x: float, half_y: float
) -> Window:
    """A window about the centres x, y, at least `half_x` and `half_y` to each side.

    Near the border it moves inwards and the places of its pixels with it, so what is drawn is always exact.
    """
    n, _, height, width = canvas.shape
    rows, columns = (min(side, int(2 * half * height) + 3) for side, half in ((height, half_y), (width, half_x)))
    top = (y * height - rows / 2).round().clamp(0, height - rows).long()[:, None]
    left = (x * height - columns / 2).round().clamp(0, width - columns).long()[:, None]
    down = top + torch.arange(rows, device=canvas.device)
    across = left + torch.arange(columns, device=canvas.device)
    return Window(
        x=((across + 0.5) / height - x[:, None])[:, None, :],
        y=((down + 0.5) / height - y[:, None])[:, :, None],
        index=(down[:, :, None] * width + across[:, None, :]).flatten(1),
        pixels=float(height),
        paint=canvas.new_zeros(n, 5, rows, columns),
    )
