"""Which examples of the procedural world training is shown. Imports no torch."""

from dataclasses import dataclass
from typing import Literal

from heliograph.errors import UserError

Shows = Literal["all", "crossings", "bright crossings"]
"""Kinds of clips."""


@dataclass(frozen=True)
class Selection:
    """Which examples of the procedural world are shown, and what counts in them; all but the weight need a cache of it.

    Attributes:
        subject_weight: what a latent cell that shows a subject counts in the loss, where the data say which do.
        still_share: of the examples, how many start from the first picture of the chunk, which says where things are
            but not how they move.
        opening_share: of the examples, how many are the first chunk of their clip whatever the draw says: there text
            alone decides where things begin, and later chunks shown without their past only blur that.
        shows: the kind of clips that come up.
        change_share: of the examples that may be, how many follow a clip of another scene, which dissolves into this
            one over a chunk: what a video does whose prompt changes. First chunks and still starts follow nothing.
    """

    subject_weight: float = 1.0
    still_share: float = 0.0
    opening_share: float = 0.0
    shows: Shows = "all"
    change_share: float = 0.0

    @property
    def chooses(self) -> bool:
        """Whether examples are chosen, which only a cache lets one do."""
        return bool(self.still_share or self.opening_share or self.change_share or self.shows != "all")

    def __post_init__(self) -> None:
        if not all(0 <= share <= 1 for share in (self.still_share, self.opening_share, self.change_share)):
            raise UserError(f"{self} has a share outside 0 (none) to 1 (all)")
