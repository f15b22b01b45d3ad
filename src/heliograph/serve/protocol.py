"""What clients may ask, as types: bodies of requests and messages of sockets, version 1.

Fields that a form sends as text are taken as the numbers they stand for.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter

VERSION = 1
MAX_PROMPT = 4000


def _numbers(value: object) -> object:
    """A list of steps as JSON has it, or as text: `[2,2,2]`, `2,2,2`."""
    if isinstance(value, str):
        text = value.strip()
        try:
            return json.loads(text) if text.startswith("[") else [part.strip() for part in text.split(",")]
        except ValueError:
            return value
    return value


Prompt = Annotated[str, Field(min_length=1, max_length=MAX_PROMPT)]
Negative = Annotated[str, Field(max_length=MAX_PROMPT)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
Steps = Annotated[
    list[Annotated[int, Field(ge=1, le=50)]], BeforeValidator(_numbers), Field(min_length=1, max_length=6)
]
Size = Annotated[str, Field(pattern=r"^[1-9][0-9]{1,3}x[1-9][0-9]{1,3}$", examples=["640x384"])]
Seconds = Annotated[float, Field(gt=0, le=86400)]
Guidance = Annotated[float, Field(ge=0, le=100)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Transition = Annotated[int, Field(ge=0, le=100)]
Pace = Annotated[float, Field(ge=0.1, le=1000)]
Name = Annotated[str, Field(max_length=120)]
Place = Annotated[int, Field(ge=0, le=10**9)]


class Strict(BaseModel):
    """A field that is not known is a mistake that the client should learn about."""

    model_config = ConfigDict(extra="forbid")


class Look(Strict):
    """How something is made; every field may be left out."""

    model: str | None = None
    size: Size | None = None
    seed: Seed | None = None
    steps: Steps | None = None
    speed: Literal["fast", "standard", "fine"] = "standard"
    guidance_scale: Guidance | None = None
    negative_prompt: Negative = ""
    motion: Fraction = 0.5


class CreateVideo(Look):
    """`POST /v1/videos`."""

    prompt: Prompt
    seconds: Seconds = 4.0


class EditVideo(Look):
    """`POST /v1/videos/edits`."""

    prompt: Prompt
    seconds: Seconds | None = None


class ExtendVideo(Look):
    """`POST /v1/videos/extensions`. What makes it look as it does comes from the video, where it was made here."""

    prompt: Prompt
    seconds: Seconds = 4.0


class RemixVideo(Strict):
    """`POST /v1/videos/{id}/remix`."""

    prompt: Prompt


class StartLive(Look):
    """`POST /v1/live`."""

    prompt: Prompt
    pace: Pace = 1.0
    name: Name = ""


class Steer(Strict):
    """Change what is shown, from the next chunk on. `transition_chunks` blends the prompt in."""

    prompt: Prompt | None = None
    negative_prompt: Negative | None = None
    guidance_scale: Guidance | None = None
    transition_chunks: Transition = 0
    pace: Pace | None = None


class Go(Strict):
    """Go back to after the chunk at this place of the path, or after the chunk of this id on any path."""

    chunk: Place | None = None
    chunk_id: str | None = Field(None, max_length=64)
    prompt: Prompt | None = None
    transition_chunks: Transition = 0


class Keep(Strict):
    """Keep a session under a name."""

    name: Name = ""


class _Message(Strict):
    v: Literal[1] = VERSION
    id: str | None = Field(None, max_length=64, description="comes back in the acknowledgement")


class SteerMessage(Steer, _Message):
    """See `Steer`."""

    type: Literal["steer"]


class RewindMessage(Go, _Message):
    """Go on from an earlier chunk; later ones stay as a branch."""

    type: Literal["rewind"]


class ForkMessage(Go, _Message):
    """Begin another session from a chunk of this one."""

    type: Literal["fork"]


class SaveMessage(Keep, _Message):
    """See `Keep`."""

    type: Literal["save"]


class PlainMessage(_Message):
    """Pause, go on, end the session, or ask whether the server is there."""

    type: Literal["pause", "resume", "stop", "ping"]


class WantMessage(_Message):
    """How many chunks ahead of what is played this viewer wants; the least of all viewers' counts."""

    type: Literal["want"]
    ahead: Annotated[float, Field(ge=1, le=2)]


ClientMessage = Annotated[
    SteerMessage | RewindMessage | ForkMessage | SaveMessage | PlainMessage | WantMessage, Field(discriminator="type")
]
CLIENT_MESSAGES: TypeAdapter[Any] = TypeAdapter(ClientMessage)
