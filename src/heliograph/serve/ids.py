"""Names of things that clients see: random, so that nobody guesses one, and of a form that can be checked."""

import re
import secrets
from typing import Literal

Kind = Literal["video", "live", "chunk"]

_PATTERN = re.compile(r"(video|live|chunk)_[0-9a-f]{32}")


def new_id(kind: Kind) -> str:
    """A new name with 128 random bits."""
    return f"{kind}_{secrets.token_hex(16)}"


def is_id(text: str, kind: Kind) -> bool:
    """Whether `text` could be a name of this kind."""
    match = _PATTERN.fullmatch(text)
    return match is not None and match[1] == kind
