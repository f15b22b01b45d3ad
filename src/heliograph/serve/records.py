"""What is stored about videos, sessions and chunks."""

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from heliograph.serve.order import Order
from heliograph.shapes import FPS, chunks_for

JobStatus = Literal["queued", "in_progress", "completed", "failed"]


@dataclass(frozen=True)
class JobPlan:
    """What a video will be.

    Attributes:
        order: how it is made.
        num_frames: its length; those of a clip that it is joined to included.
        source_frames: frames of a clip that come first, as they were given.
        kept_chunks: chunks that it shares with the video it extends; the prompt changes after them.
        remixed_from: the video whose order was taken over.
    """

    order: Order
    num_frames: int
    source_frames: int = 0
    kept_chunks: int = 0
    remixed_from: str | None = None

    @property
    def num_chunks(self) -> int:
        """Chunks that are made or kept."""
        return chunks_for(self.num_frames - self.source_frames)

    @property
    def seconds(self) -> str:
        """Length as clients of OpenAI read it: a number in a string."""
        return f"{self.num_frames / FPS:.4g}"

    def as_json(self) -> str:
        """Text for the database."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "JobPlan":
        """The plan that `as_json` wrote."""
        values = json.loads(text)
        return cls(**{**values, "order": Order.from_json(values["order"])})


@dataclass(frozen=True)
class Job:
    """A video that was ordered, and how far it is. Times are seconds since 1970."""

    id: str
    created_at: int
    completed_at: int | None
    status: JobStatus
    made_with: str
    plan: JobPlan
    client: str
    num_done: int
    error: Mapping[str, Any] | None

    @property
    def progress(self) -> int:
        """Percent of its chunks; 100 only when the file is there."""
        if self.status == "completed":
            return 100
        return min(99, 100 * self.num_done // self.plan.num_chunks)

    @classmethod
    def from_row(cls, row: sqlite3.Row) -> "Job":
        """The job in a row of the table."""
        values = {key: row[key] for key in row.keys() if key != "number"}  # noqa: SIM118 - a Row is no mapping
        error = json.loads(values["error"]) if values["error"] else None
        return cls(**{**values, "plan": JobPlan.from_json(values["plan"]), "error": error})


@dataclass(frozen=True)
class LivePlan:
    """How a live session was begun.

    Attributes:
        order: how its first chunk is made.
        pace: playback speed as a multiple of 24 frames per second.
        forked_from: the session it left, if any, and the chunk it left it after.
    """

    order: Order
    pace: float = 1.0
    forked_from: str | None = None
    fork_chunk: int | None = None

    def as_json(self) -> str:
        """Text for the database."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "LivePlan":
        """The plan that `as_json` wrote."""
        values = json.loads(text)
        return cls(**{**values, "order": Order.from_json(values["order"])})


@dataclass(frozen=True)
class LiveRecord:
    """A live session as it is stored. `tip` is the newest chunk of the path it is on."""

    id: str
    created_at: int
    updated_at: int
    plan: LivePlan
    client: str
    tip: str | None
    is_saved: bool
    name: str

    @classmethod
    def from_row(cls, row: sqlite3.Row) -> "LiveRecord":
        """The session in a row of the table."""
        values = {key: row[key] for key in row.keys() if key != "number"}  # noqa: SIM118 - a Row is no mapping
        return cls(**{**values, "plan": LivePlan.from_json(values["plan"]), "is_saved": bool(values["is_saved"])})


@dataclass(frozen=True)
class Figures:
    """How a chunk looks, for plots of drift: means over its frames.

    `luma`, `red`, `green`, `blue` and `saturation` are in [0, 1]; `sharpness` is the mean absolute difference of
    neighbouring pixels' luma, in [0, 1].
    """

    luma: float
    red: float
    green: float
    blue: float
    saturation: float
    sharpness: float


@dataclass(frozen=True)
class ChunkRecord:
    """One chunk on disk: what it was made after (`parent`), its place in the video, and the prompt it showed."""

    id: str
    owner: str
    parent: str | None
    place: int
    prompt: str
    figures: Figures
    made_at: float

    @classmethod
    def from_row(cls, row: sqlite3.Row) -> "ChunkRecord":
        """The chunk in a row of the table."""
        values = {key: row[key] for key in row.keys() if key != "number"}  # noqa: SIM118 - a Row is no mapping
        return cls(**{**values, "figures": Figures(**json.loads(values["figures"]))})
