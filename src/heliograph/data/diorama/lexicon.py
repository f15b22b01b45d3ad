"""The words of the captions: for every value of every attribute its canonical word first, then its synonyms.

`train` forms may appear in training captions; `heldout` forms appear in evaluation prompts alone.
"""

from dataclasses import dataclass

from heliograph.data.diorama.record import Kind, Scene


@dataclass(frozen=True)
class Forms:
    """Ways to say one value; the first of `train` is the canonical one."""

    train: tuple[str, ...]
    heldout: tuple[str, ...]


@dataclass(frozen=True)
class Verb:
    """A verb: "swim", "swims", "swimming"."""

    plural: str
    singular: str
    participle: str


COLOUR_WORDS: dict[str, Forms] = {
    "red": Forms(("red", "scarlet", "bright red", "cherry-red"), ("crimson", "ruby")),
    "orange": Forms(("orange", "tangerine", "bright orange", "pumpkin"), ("carrot-coloured",)),
    "yellow": Forms(("yellow", "golden", "bright yellow", "lemon-yellow"), ("canary-yellow",)),
    "green": Forms(("green", "emerald", "bright green", "grass-green"), ("jade",)),
    "blue": Forms(("blue", "royal blue", "cobalt", "bright blue"), ("sapphire", "ultramarine")),
    "purple": Forms(("purple", "violet", "deep purple", "plum-coloured"), ("amethyst",)),
    "pink": Forms(("pink", "rosy", "hot pink", "candy-pink"), ("bubblegum-pink",)),
    "white": Forms(("white", "snow-white", "pure white", "milky"), ("chalk-white", "pearly")),
}

KIND_WORDS: dict[Kind, Forms] = {
    "fish": Forms(("fish", "reef fish", "tropical fish"), ("angelfish",)),
    "jellyfish": Forms(("jellyfish", "jelly", "medusa"), ("sea jelly",)),
    "balloon": Forms(("balloon", "hot-air balloon", "air balloon"), ("montgolfier",)),
    "bird": Forms(("bird", "songbird", "wild bird"), ("finch",)),
    "butterfly": Forms(("butterfly", "spotted butterfly", "summer butterfly"), ("moth",)),
    "boat": Forms(("boat", "sailing boat", "sailboat"), ("yacht",)),
}

PLURALS = {"jelly": "jellies", "butterfly": "butterflies", "finch": "finches"}
"""Last words whose plural is not made with an s; that of every kind of fish is the same word."""

COUNT_WORDS: dict[int, Forms] = {
    1: Forms(("a", "one", "a single"), ("a lone", "just one")),
    2: Forms(("two", "a pair of", "2"), ("a couple of",)),
    3: Forms(("three", "a trio of", "3"), ("a threesome of",)),
}

SIZE_WORDS: dict[str, Forms] = {
    "small": Forms(("small", "little", "tiny"), ("miniature",)),
    "medium": Forms(("medium-sized", "mid-sized", "middle-sized"), ("average-sized",)),
    "big": Forms(("big", "large", "huge"), ("giant", "enormous")),
}

SPEED_WORDS: dict[str, Forms] = {
    "slow": Forms(("slowly", "gently", "lazily", "at a slow pace"), ("unhurriedly",)),
    "normal": Forms(("steadily", "at a steady pace", "at normal speed"), ("at an even pace",)),
    "quick": Forms(("quickly", "fast", "swiftly", "rapidly"), ("briskly", "in a hurry")),
}

MOTION_WORDS: dict[str, Forms] = {
    "left": Forms(("to the left", "leftwards", "from right to left", "towards the left"), ("to the left side",)),
    "right": Forms(("to the right", "rightwards", "from left to right", "towards the right"), ("to the right side",)),
    "circle": Forms(("in circles", "round and round", "in a circle", "around in circles"), ("in loops",)),
    "back and forth": Forms(("back and forth", "to and fro", "from side to side"), ("forth and back",)),
    "up and down": Forms(("up and down", "up and down again", "down and up"), ("higher and lower",)),
}

VERBS: dict[Kind, tuple[tuple[Verb, ...], tuple[Verb, ...]]] = {
    "fish": (
        (Verb("swim", "swims", "swimming"), Verb("glide", "glides", "gliding")),
        (Verb("travel", "travels", "travelling"),),
    ),
    "jellyfish": (
        (Verb("drift", "drifts", "drifting"), Verb("float", "floats", "floating"), Verb("swim", "swims", "swimming")),
        (Verb("bob", "bobs", "bobbing"),),
    ),
    "balloon": (
        (Verb("float", "floats", "floating"), Verb("drift", "drifts", "drifting"), Verb("fly", "flies", "flying")),
        (Verb("waft", "wafts", "wafting"),),
    ),
    "bird": (
        (Verb("fly", "flies", "flying"), Verb("soar", "soars", "soaring"), Verb("flap", "flaps", "flapping")),
        (Verb("travel", "travels", "travelling"),),
    ),
    "butterfly": (
        (Verb("flutter", "flutters", "fluttering"), Verb("fly", "flies", "flying"), Verb("dance", "dances", "dancing")),
        (Verb("flit", "flits", "flitting"),),
    ),
    "boat": (
        (Verb("sail", "sails", "sailing"), Verb("cruise", "cruises", "cruising"), Verb("glide", "glides", "gliding")),
        (Verb("travel", "travels", "travelling"),),
    ),
}
"""Verbs of each kind: of training captions, the canonical one first, and held out."""

SCENE_WORDS: dict[Scene, Forms] = {
    "reef": Forms(
        ("over a coral reef", "above the corals", "under water by a reef", "at the coral reef"), ("in a coral garden",)
    ),
    "meadow": Forms(
        ("over a meadow", "above the green hills", "over the grassy hills", "above a flowery meadow"),
        ("over the pasture",),
    ),
    "sea": Forms(("at sea", "by the sea", "out on the ocean", "where the waves roll"), ("offshore",)),
    "desert": Forms(
        ("over the desert", "above the sand dunes", "in the desert", "over the sandy dunes"), ("over an arid land",)
    ),
    "mountains": Forms(
        ("over snowy mountains", "above the snowy peaks", "in the mountains", "over the snowy mountains"),
        ("among alpine summits",),
    ),
}

TIME_WORDS: dict[str, Forms] = {
    "day": Forms(("by day", "in daylight", "during the day", "on a sunny day"), ("in broad daylight",)),
    "sunset": Forms(("at sunset", "at dusk", "in the evening light", "as the sun sets"), ("at sundown",)),
    "night": Forms(("at night", "by night", "under the stars", "in the moonlight"), ("after dark",)),
}

PAN_WORDS: dict[str, Forms] = {
    "none": Forms(("the camera stands still", "the camera is still", "the view stays still"), ("the camera is fixed",)),
    "left": Forms(
        ("the camera pans left", "the camera pans to the left", "the view pans left"), ("the camera turns left",)
    ),
    "right": Forms(
        ("the camera pans right", "the camera pans to the right", "the view pans right"), ("the camera turns right",)
    ),
}

OPENINGS: dict[str, tuple[str, ...]] = {
    "sentence": ("", "", "", "here, ", "look, ", "in this clip, "),
    "phrase": ("", "", "", "we see ", "a video of ", "there: "),
}
"""What a training caption may open with before a full sentence, or before a noun and a participle."""


def plural(noun: str) -> str:
    """The plural of a kind's noun: "reef fish", "jellies", "sailing boats"."""
    head, _, last = noun.rpartition(" ")
    many = PLURALS.get(last, last if last.endswith("fish") else last + "s")
    return f"{head} {many}".strip()


def synonyms() -> dict[str, str]:
    """Every surface form of every attribute, held-out ones too, with its canonical form.

    For a tokenizer's normalizer; longer forms come first, so that "bright red" is replaced before "red".
    """
    tables: tuple[dict, ...] = (
        COLOUR_WORDS, KIND_WORDS, SIZE_WORDS, SPEED_WORDS, MOTION_WORDS, SCENE_WORDS, TIME_WORDS, PAN_WORDS
    )  # fmt: skip
    pairs = {}
    for forms in (forms for table in tables for forms in table.values()):
        pairs |= dict.fromkeys((*forms.train, *forms.heldout), forms.train[0])
    for forms in KIND_WORDS.values():
        pairs |= {plural(form): plural(forms.train[0]) for form in (*forms.train, *forms.heldout)}
    return dict(sorted(pairs.items(), key=lambda pair: (-len(pair[0]), pair[0])))
