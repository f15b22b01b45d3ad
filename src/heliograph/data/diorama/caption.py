"""Captions: what a person would write under a clip, in many ways, and prompts to test with that training never saw."""

import random
import re
from dataclasses import dataclass

from heliograph.data.diorama.lexicon import (
    COLOUR_WORDS,
    COUNT_WORDS,
    KIND_WORDS,
    MOTION_WORDS,
    OPENINGS,
    PAN_WORDS,
    SCENE_WORDS,
    SIZE_WORDS,
    SPEED_WORDS,
    TIME_WORDS,
    VERBS,
    Forms,
    Verb,
    plural,
)
from heliograph.data.diorama.record import ATTRIBUTES, Record, Split, sample_record
from heliograph.errors import UserError

DROP_FRACTION = 0.2
"""How often a training caption leaves out an attribute."""

PLAIN_DROP_FRACTION = 0.5
"""The same for what goes without saying: medium size, normal speed, a camera that stands still."""

MAX_PIECES = 30
"""Words and signs in a caption, so that a text encoder of 32 tokens reads all of it."""

_PIECE = re.compile(r"\w+|[,;:.]")

UNREMARKABLE = {"size": "medium", "speed": "normal", "pan": "none"}

PATTERNS: dict[Split, tuple[str, ...]] = {
    "train": (
        "{sentence}{subject} {verb} {motion} {speed} {scene} {time}, {pan}",
        "{time}, {subject} {verb} {speed} {motion} {scene} while {pan}",
        "{scene}, {subject} {verb} {motion} {speed} {time}; {pan}",
        "{phrase}{subject} {verbing} {speed} {motion} {scene} {time}, {pan}",
        "{time} {scene}: {subject} {verb} {motion} {speed}, {pan}",
        "{pan}: {subject} {verbing} {motion} {speed} {scene} {time}",
    ),
    "heldout": (
        "watch {subject} {verb_plain} {motion} {speed}, {time}, {scene}, as {pan}",
        "{speed} {verbing} {motion} {scene} {time}: {subject}; {pan}",
        "as {pan}, {subject} {verb} {scene}, {speed} {motion}, {time}",
    ),
}
"""Sentence patterns. A part that is left out takes the sign or joining word before it away; see `_sentence`."""


@dataclass(frozen=True)
class Caption:
    """A caption and what it says.

    Attributes:
        text: one sentence.
        named: the attributes that the text names; of the others a picture may choose freely.
    """

    text: str
    named: frozenset[str]


@dataclass(frozen=True)
class Prompt:
    """An evaluation prompt that names every attribute of its record, in words and patterns held out of training."""

    text: str
    record: Record


def caption(record: Record, seed: int) -> str:
    """A training caption in natural language; the same record and seed always give the same text."""
    return describe(record, seed, "train").text


def describe(record: Record, seed: int, phrasing: Split) -> Caption:
    """A caption together with the attributes it names.

    Args:
        seed: chooses pattern, words and what is left out.
        phrasing: "train" uses training patterns and words and leaves attributes out; "heldout" uses a held-out
            pattern and, for every second attribute or so, held-out words, and names everything.
    """
    luck = random.Random(f"caption {phrasing} {seed} {record.seed}")
    drafts = []
    while not drafts or (len(_PIECE.findall(drafts[-1].text)) > MAX_PIECES and len(drafts) < 20):
        named = _named(record, luck) if phrasing == "train" else frozenset(ATTRIBUTES)
        pattern = luck.choice(PATTERNS[phrasing])
        drafts.append(Caption(_sentence(pattern, _parts(record, named, luck, phrasing)), named))
    return min(drafts, key=lambda draft: len(_PIECE.findall(draft.text)))


def plain_caption(record: Record) -> str:
    """The canonical caption: every attribute, always in the same words and order."""
    verb = VERBS[record.kind][0][0]
    noun = KIND_WORDS[record.kind].train[0]
    parts = {
        "subject": " ".join(
            (
                COUNT_WORDS[record.count].train[0],
                SIZE_WORDS[record.size].train[0],
                COLOUR_WORDS[record.colour].train[0],
                noun if record.count == 1 else plural(noun),
            )
        ),
        "verb": verb.singular if record.count == 1 else verb.plural,
        "motion": MOTION_WORDS[record.motion].train[0],
        "speed": SPEED_WORDS[record.speed].train[0],
        "scene": SCENE_WORDS[record.scene].train[0],
        "time": TIME_WORDS[record.time].train[0],
        "pan": PAN_WORDS[record.pan].train[0],
    }
    return _sentence("{subject} {verb} {motion} {speed} {scene} {time}, {pan}", parts)


def eval_prompts(count: int, seed: int) -> list[Prompt]:
    """Prompts for evaluation: held-out combinations in held-out phrasing, every attribute named.

    Raises:
        UserError: if `count` is below 1.
    """
    if count < 1:
        raise UserError(f"count={count} prompts cannot be made; use 1 or more")
    seeds = random.Random(f"eval prompts {seed}")
    prompts = []
    for _ in range(count):
        record = sample_record(seeds.randrange(2**40), "heldout")
        prompts.append(Prompt(describe(record, seeds.randrange(2**40), "heldout").text, record))
    return prompts


def _named(record: Record, luck: random.Random) -> frozenset[str]:
    """Attributes that a training caption names. Kind always; a single subject is always "a", "one" or the like."""
    named = {"kind"}
    for attribute in ATTRIBUTES:
        goes_without_saying = UNREMARKABLE.get(attribute) == getattr(record, attribute)
        drop = PLAIN_DROP_FRACTION if goes_without_saying else DROP_FRACTION
        if luck.random() >= drop:
            named.add(attribute)
    return frozenset(named | ({"count"} if record.count == 1 else set()))


def _parts(record: Record, named: frozenset[str], luck: random.Random, phrasing: Split) -> dict[str, str]:
    def say(attribute: str, forms: Forms) -> str:
        return _choose(forms, luck, phrasing) if attribute in named else ""

    verb = _verb(record, luck, phrasing)
    noun = _choose(KIND_WORDS[record.kind], luck, phrasing)
    if record.count > 1 or "count" not in named:
        noun = plural(noun)
    count = say("count", COUNT_WORDS[record.count]) or luck.choice(("some", ""))
    size, colour = say("size", SIZE_WORDS[record.size]), say("colour", COLOUR_WORDS[record.colour])
    return {
        **{kind: luck.choice(openings) for kind, openings in OPENINGS.items()},
        "subject": " ".join(word for word in (count, size, colour, noun) if word),
        "verb": verb.singular if record.count == 1 else verb.plural,
        "verb_plain": verb.plural,
        "verbing": verb.participle,
        "motion": say("motion", MOTION_WORDS[record.motion]),
        "speed": say("speed", SPEED_WORDS[record.speed]),
        "scene": say("scene", SCENE_WORDS[record.scene]),
        "time": say("time", TIME_WORDS[record.time]),
        "pan": say("pan", PAN_WORDS[record.pan]),
    }


def _verb(record: Record, luck: random.Random, phrasing: Split) -> Verb:
    train, heldout = VERBS[record.kind]
    return luck.choice(heldout if phrasing == "heldout" and luck.random() < 0.5 else train)


def _choose(forms: Forms, luck: random.Random, phrasing: Split) -> str:
    return luck.choice(forms.heldout if phrasing == "heldout" and luck.random() < 0.5 else forms.train)


def _sentence(pattern: str, parts: dict[str, str]) -> str:
    """Fill a pattern: parts left out take the sign or joining word before them away; mind a and an; capitalise."""
    text = pattern
    for name in (name for name, part in parts.items() if not part and name not in OPENINGS):
        text = re.sub(rf"(,|;|:)?( while| as)? ?\{{{name}\}}", "", text)
    text = re.sub(r"\s+", " ", text.format(**parts)).strip(" ,;:")
    text = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)
    return text[0].upper() + text[1:] + "."
