"""What a clip of the procedural world is: a small frozen record, the vocabulary it draws from, and the held-out rule.

Plain Python: the record and its vocabulary can be used without torch.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Literal, get_args

from heliograph.errors import UserError

Scene = Literal["reef", "meadow", "sea", "desert", "mountains"]
Kind = Literal["fish", "jellyfish", "balloon", "bird", "butterfly", "boat"]
Colour = Literal["red", "orange", "yellow", "green", "blue", "purple", "pink", "white"]
Size = Literal["small", "medium", "big"]
Motion = Literal["left", "right", "circle", "back and forth", "up and down"]
Speed = Literal["slow", "normal", "quick"]
Time = Literal["day", "sunset", "night"]
Pan = Literal["none", "left", "right"]
Split = Literal["train", "heldout"]

SCENES: tuple[Scene, ...] = get_args(Scene)
KINDS: tuple[Kind, ...] = get_args(Kind)
COLOURS: tuple[Colour, ...] = get_args(Colour)
COUNTS: tuple[int, ...] = (1, 2, 3)
SIZES: tuple[Size, ...] = get_args(Size)
MOTIONS: tuple[Motion, ...] = get_args(Motion)
SPEEDS: tuple[Speed, ...] = get_args(Speed)
TIMES: tuple[Time, ...] = get_args(Time)
PANS: tuple[Pan, ...] = get_args(Pan)
SPLITS: tuple[Split, ...] = get_args(Split)

LIVES_IN: dict[Scene, tuple[Kind, ...]] = {
    "reef": ("fish", "jellyfish"),
    "meadow": ("balloon", "bird", "butterfly"),
    "sea": ("boat", "bird"),
    "desert": ("balloon", "bird"),
    "mountains": ("balloon", "bird"),
}
"""Which subjects are seen in which scene."""

_PAIRS: list[tuple[Scene, Kind]] = [(scene, kind) for scene in SCENES for kind in LIVES_IN[scene]]

BOAT_MOTIONS: tuple[Motion, ...] = ("left", "right", "back and forth")
"""A boat stays on the water: it neither circles nor rises."""

MAX_SEED = 2**62
"""Seeds are 0 <= seed < MAX_SEED."""


@dataclass(frozen=True)
class Record:
    """One clip of the world: everything its caption may say, and the seed of everything else.

    The frames of an endless video follow from the record alone. Combinations that the world does not hold (a fish in
    the desert, a boat that circles, three big subjects, which would not fit side by side) are refused.

    Attributes:
        scene, kind, colour: where, what, and of which colour the subjects are; all subjects of a clip are alike.
        count: number of subjects, 1 to 3.
        size: radius .10, .135 or .18 of the picture height.
        motion: across the picture ("left", "right": out at one side and back in at the other) or about one place.
        speed: mean speed along the path, .14, .25 or .42 picture heights a second.
        time: the light of day, sunset or night.
        pan: where the camera turns, so that the scenery moves the other way; subjects move relative to the picture.
        seed: layout of the scenery, phases and starting places; 0 <= seed < 2**62.
    """

    scene: Scene
    kind: Kind
    colour: Colour
    count: int
    size: Size
    motion: Motion
    speed: Speed
    time: Time
    pan: Pan
    seed: int

    def __post_init__(self) -> None:
        for name, allowed in _ALLOWED.items():
            _require(name, getattr(self, name), allowed)
        _require(f"kind in scene={self.scene!r}", self.kind, LIVES_IN[self.scene])
        _require(f"motion of kind={self.kind!r}", self.motion, motions_of(self.kind))
        _require(f"size of count={self.count}", self.size, sizes_of(self.count))
        if not 0 <= self.seed < MAX_SEED:
            raise UserError(f"seed={self.seed} is out of range; use 0 to {MAX_SEED - 1}")


_ALLOWED: dict[str, tuple[object, ...]] = {
    "scene": SCENES,
    "kind": KINDS,
    "colour": COLOURS,
    "count": COUNTS,
    "size": SIZES,
    "motion": MOTIONS,
    "speed": SPEEDS,
    "time": TIMES,
    "pan": PANS,
}

ATTRIBUTES: tuple[str, ...] = tuple(field.name for field in fields(Record) if field.name != "seed")
"""Names of the visible properties of a record, in the record's order."""


def _require(name: str, given: object, allowed: tuple[object, ...]) -> None:
    if given not in allowed:
        raise UserError(f"{name} is {given!r}; use one of {', '.join(map(repr, allowed))}")


def motions_of(kind: Kind) -> tuple[Motion, ...]:
    """The ways a subject of this kind may move."""
    return BOAT_MOTIONS if kind == "boat" else MOTIONS


def sizes_of(count: int) -> tuple[Size, ...]:
    """The sizes that `count` subjects may have: three big ones would not fit side by side."""
    return SIZES[:2] if count == 3 else SIZES


def combinations() -> Iterator[tuple[Scene, Kind, Colour]]:
    """Every (scene, kind, colour) of the world, 88 of them, in a fixed order."""
    for scene, kind in _PAIRS:
        for colour in COLOURS:
            yield scene, kind, colour


def is_heldout(scene: Scene, kind: Kind, colour: Colour) -> bool:
    """Whether this combination is kept out of training.

    The rule walks diagonally through the table of 11 (scene, kind) pairs by 8 colours: 8 of 88 combinations, each
    colour once, at most one colour of a pair. So every part of a held-out combination is well known from others.
    """
    return (3 * _PAIRS.index((scene, kind)) + COLOURS.index(colour)) % len(_PAIRS) == 0


@cache
def _colours(split: Split) -> Mapping[tuple[Scene, Kind], Sequence[Colour]]:
    """The colours of every subject in every scene that a split shows; worked out once, for records are many."""
    return {
        pair: [colour for colour in COLOURS if is_heldout(*pair, colour) == (split == "heldout")] for pair in _PAIRS
    }


def sample_record(seed: int, split: Split) -> Record:
    """A record drawn at random: the same `seed` and `split` always give the same one.

    Scenes, then subjects of the scene, colours, counts, motions, speeds and times are equally likely; the camera
    stands still in two clips of three.

    Args:
        seed: 0 <= seed < 2**62; becomes the seed of the record too.
        split: "train" never gives a held-out (scene, kind, colour), "heldout" gives nothing else.

    Raises:
        UserError: for an unknown split or a seed out of range.
    """
    _require("split", split, SPLITS)
    draw = random.Random(f"{split} {seed}")
    rows = _colours(split)
    scenes: list[Scene] = [place for place in SCENES if any(rows[place, being] for being in LIVES_IN[place])]
    scene = draw.choice(scenes)
    kinds: list[Kind] = [being for being in LIVES_IN[scene] if rows[scene, being]]
    kind = draw.choice(kinds)
    colour = draw.choice(rows[scene, kind])
    count = draw.choice(COUNTS)
    return Record(
        scene=scene,
        kind=kind,
        colour=colour,
        count=count,
        size=draw.choice(sizes_of(count)),
        motion=draw.choice(motions_of(kind)),
        speed=draw.choice(SPEEDS),
        time=draw.choice(TIMES),
        pan=draw.choice(("none", "none", "none", "none", "left", "right")),
        seed=seed,
    )
