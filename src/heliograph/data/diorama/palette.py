"""The colours of the world: subjects, and every scene by day, at sunset and at night.

The rule that keeps the world readable: subjects are vivid, scenery is soft. In the same light every scenery colour is
at least .22 away from every subject colour (red, green and blue as coordinates), and subject colours at least .33 from
each other, so that neither a red coral nor a cloud can be taken for a red fish or a white bird.
"""

from heliograph.data.diorama.record import Colour, Scene, Time

SUBJECT: dict[Colour, str] = {
    "red": "e01e2d",
    "orange": "fb8312",
    "yellow": "fddc28",
    "green": "22b14a",
    "blue": "1f4fe8",
    "purple": "8228c4",
    "pink": "ff6fc0",
    "white": "fbfbfb",
}
"""Body colour of a subject by day."""

LIGHT: dict[Time, tuple[float, float, float]] = {
    "day": (1.0, 1.0, 1.0),
    "sunset": (1.0, 0.94, 0.89),
    "night": (0.91, 0.92, 1.0),
}
"""What the light of the hour leaves of a subject's colour: enough to know it at any hour."""

SCENERY: dict[Scene, dict[str, dict[Time, str]]] = {
    "reef": {
        "high": {"day": "7cc8cf", "sunset": "dfae8f", "night": "2b4a78"},
        "middle": {"day": "3a8fb4", "sunset": "8a6f8f", "night": "16305c"},
        "low": {"day": "1c5f94", "sunset": "3b4272", "night": "0c1b3e"},
        "far": {"day": "2f7ba0", "sunset": "5d5680", "night": "122850"},
        "rock": {"day": "2a6288", "sunset": "49426c", "night": "0f2040"},
        "sand": {"day": "d9c79a", "sunset": "b58d7f", "night": "3f4a63"},
        "sand low": {"day": "b59f78", "sunset": "83646a", "night": "262f48"},
        "kelp": {"day": "3f7f63", "sunset": "4c5a52", "night": "173540"},
        "ray": {"day": "bfe6dd", "sunset": "ffd9a8", "night": "6f93c8"},
    },
    "meadow": {
        "high": {"day": "58a2e0", "sunset": "5c5a94", "night": "131a3c"},
        "middle": {"day": "9cc6de", "sunset": "c2868f", "night": "25325f"},
        "low": {"day": "c6dcdc", "sunset": "eab48e", "night": "46588a"},
        "far": {"day": "8fb3b4", "sunset": "94788e", "night": "2c3c66"},
        "rock": {"day": "8fb578", "sunset": "a08c62", "night": "26465e"},
        "near": {"day": "7aa455", "sunset": "7b8450", "night": "1d3f4a"},
        "tree": {"day": "4f7f58", "sunset": "4c5a48", "night": "16303f"},
        "trunk": {"day": "6b5646", "sunset": "54403e", "night": "1c2433"},
        "cloud": {"day": "c3d6e3", "sunset": "e2ab9c", "night": "3b4a78"},
    },
    "sea": {
        "high": {"day": "549ddc", "sunset": "574f8a", "night": "10183a"},
        "middle": {"day": "98c4de", "sunset": "b97a90", "night": "223061"},
        "low": {"day": "c4dade", "sunset": "ecb189", "night": "485c90"},
        "far": {"day": "7fa0ae", "sunset": "80607c", "night": "26345c"},
        "water": {"day": "5b9fb6", "sunset": "b0807f", "night": "2b4878"},
        "water low": {"day": "2f6f93", "sunset": "4d4c78", "night": "101f48"},
        "foam": {"day": "a9cdd4", "sunset": "d9ab98", "night": "587aae"},
        "island": {"day": "5f8a6f", "sunset": "5a5058", "night": "1a2c44"},
        "beach": {"day": "cdbd92", "sunset": "b48a78", "night": "3a4660"},
        "cloud": {"day": "c3d6e3", "sunset": "dfa59c", "night": "3a4876"},
    },
    "desert": {
        "high": {"day": "76aac6", "sunset": "64507e", "night": "17163a"},
        "middle": {"day": "b0c8c8", "sunset": "bc7480", "night": "342f62"},
        "low": {"day": "dccfae", "sunset": "edae86", "night": "6a5a84"},
        "far": {"day": "bf9a86", "sunset": "8c5f70", "night": "3a3260"},
        "dune": {"day": "d8ac7c", "sunset": "b37a66", "night": "4a426c"},
        "dune low": {"day": "c49468", "sunset": "8a5a5c", "night": "352f58"},
        "near": {"day": "e0bd8c", "sunset": "9c6a5c", "night": "403a62"},
        "near low": {"day": "c99e70", "sunset": "6c4850", "night": "25234a"},
        "cactus": {"day": "5f8a66", "sunset": "4c4c48", "night": "1c2e48"},
        "cloud": {"day": "ccd6d4", "sunset": "dd9d92", "night": "4a4478"},
    },
    "mountains": {
        "high": {"day": "4f98de", "sunset": "545890", "night": "0d1836"},
        "middle": {"day": "94c0e0", "sunset": "b9849c", "night": "1a305c"},
        "low": {"day": "c2d8e4", "sunset": "efb99c", "night": "36568a"},
        "far": {"day": "92aac4", "sunset": "96789a", "night": "24386a"},
        "rock": {"day": "74839e", "sunset": "73628a", "night": "22305c"},
        "snow": {"day": "c8d5e5", "sunset": "ecbcae", "night": "7086b8"},
        "forest": {"day": "3f6a66", "sunset": "43455c", "night": "0f2238"},
        "near": {"day": "c2d1e2", "sunset": "cda4aa", "night": "4c639a"},
        "near low": {"day": "93a9c6", "sunset": "82729a", "night": "223362"},
        "cloud": {"day": "c6d6e6", "sunset": "e4acaa", "night": "33487a"},
    },
}
"""Colours of each scene's parts at each time of day."""

CORALS: tuple[str, ...] = ("c47a8c", "c79a6a", "9c82b4", "6fa39a")
"""Colours of corals by day."""

SUN: dict[Time, str] = {"day": "ffecb4", "sunset": "ffd898", "night": "e6dfb8"}
"""Disc of the sun, and at night of the moon."""

GLOW: dict[Time, str] = {"day": "fff0cc", "sunset": "ffb07c", "night": "8ea2d8"}
"""Light about the sun or the moon."""


def rgb(code: str) -> tuple[float, float, float]:
    """Red, green and blue in [0, 1] of a six-digit hexadecimal colour."""
    red, green, blue = (int(code[i : i + 2], 16) / 255 for i in (0, 2, 4))
    return red, green, blue


def subject_rgb(colour: Colour, time: Time) -> tuple[float, float, float]:
    """The body colour of a subject in the light of the hour, red, green and blue in [0, 1]."""
    red, green, blue = (own * light for own, light in zip(rgb(SUBJECT[colour]), LIGHT[time], strict=True))
    return red, green, blue
