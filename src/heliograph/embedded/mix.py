"""Which clips of the world the embedded model sees how often: mostly one subject that is large.

Every value of every attribute occurs. A record is drawn as the world draws it and kept with a chance that is the
product of its attributes' weights; so the held-out combinations stay held out.
"""

import random
from collections.abc import Mapping
from types import MappingProxyType

from heliograph.data.diorama import Record, sample_record
from heliograph.data.diorama.caption import caption, plain_caption
from heliograph.data.diorama.record import Split

WEIGHTS: Mapping[str, Mapping[object, float]] = MappingProxyType(
    {
        "count": {1: 1.0, 2: 0.15, 3: 0.05},
        "size": {"small": 0.05, "medium": 0.5, "big": 1.0},
        "motion": {"left": 1.0, "right": 1.0, "circle": 0.4, "back and forth": 0.4, "up and down": 0.4},
        "pan": {"none": 1.0, "left": 0.3, "right": 0.3},
        "time": {"day": 1.0, "sunset": 0.7, "night": 0.7},
    }
)
"""Chance to keep a record with this value, relative to the other values of the attribute."""

BRIGHT = frozenset({"white", "yellow", "orange", "pink"})
"""Colours that are lighter than every scene at night."""

PLAIN_SHARE, EMPTY_SHARE = 0.3, 0.08
"""How often a clip is shown under its canonical caption, and under none."""


FIRST_TEACHING_SEED = 5 * 10**6
"""Seeds of the records whose captions the teacher of stage 3 is asked for."""


def mixed_record(seed: int, split: Split = "train") -> Record:
    """The record of the mix with this number: the same seed always gives the same one."""
    luck = random.Random(f"mix {split} {seed}")
    while True:
        record = sample_record(luck.randrange(2**62), split)
        chance = 1.0
        for attribute, weights in WEIGHTS.items():
            chance *= weights[getattr(record, attribute)]
        if luck.random() < chance:
            return record


def is_crossing(record: Record) -> bool:
    """Subjects that cross the picture to one side."""
    return record.motion in ("left", "right")


def is_bright_crossing(record: Record) -> bool:
    """One light subject that crosses the dark: where it is, and so where it goes, is a matter of light alone.

    Elsewhere to which side a subject belongs shows in opposite ways, darker or lighter than what is behind it, and over
    all of them hardly at all: the model did not find it in 150,000 examples, and among these in 3,000.
    """
    return (
        is_crossing(record)
        and record.count == 1
        and record.pan == "none"
        and record.time == "night"
        and record.colour in BRIGHT
    )


def mixed_caption(record: Record, seed: int) -> str:
    """A caption of the record for one visit to it: free, canonical, or empty."""
    luck = random.Random(f"mixed caption {seed}").random()
    if luck < EMPTY_SHARE:
        return ""
    return plain_caption(record) if luck < EMPTY_SHARE + PLAIN_SHARE else caption(record, seed)


def teaching_prompts(count: int) -> list[str]:
    """Captions of records that training of the other phases did not show, free and canonical in turn, all different."""
    found: dict[str, None] = {}
    seed = FIRST_TEACHING_SEED
    while len(found) < count:
        record = mixed_record(seed)
        found[plain_caption(record) if seed % 2 else caption(record, seed)] = None
        seed += 1
    return list(found)
