"""The prompt timeline: which prompt each chunk is made from, and how one blends into the next.

These are the interactive prompts of Helios, with two behaviours of the released engine corrected. That one blends only
while its list of intervals lasts, then falls back to the first prompt; here the last prompt stays for ever. And it
makes sum(cumulative ends) chunks when a video is shorter than its intervals; here a timeline never decides how long a
video is.

Imports no torch, so that the command line can check a timeline before anything heavy is loaded.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from heliograph.errors import UserError
from heliograph.shapes import CHUNK_FRAMES, FPS, MAX_FRAMES

MAX_TIMELINE_BYTES = 2**20
"""Largest timeline file that is read."""

CHUNK_SECONDS = CHUNK_FRAMES / FPS
"""Length of a chunk: 1.375 seconds."""

_HOW_TO_WRITE = "write for example '0:08 +3 the fish turns blue' (a time 0:08 or 8s, or a chunk #6; +3 blends 3 chunks)"
_CUE_KEYS = frozenset({"time", "chunk", "prompt", "transition_chunks"})

Entry = TypeVar("Entry")


def require_text(text: object) -> str:
    """The same text if it is a string of valid Unicode (surrogates only in pairs, which a cleaning step joins).

    Raises:
        UserError: it is no string, or has half a surrogate pair, which no encoder can read.
    """
    if not isinstance(text, str):
        raise UserError(f"a prompt must be text, not {type(text).__name__}; put it in quotes")
    try:
        text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError as error:
        place = len(text.encode("utf-16-le", "surrogatepass")[: error.start].decode("utf-16-le"))
        raise UserError(
            f"the prompt is not valid Unicode: character {place} is half a surrogate pair; remove it"
        ) from None
    return text


def require_prompt(prompt: object) -> str:
    """The same prompt if it is valid text with something in it.

    Raises:
        UserError: as `require_text`, or the prompt is blank.
    """
    text = require_text(prompt)
    if not text.strip():
        raise UserError("the prompt is empty; describe what to show, for example 'a red fish swims to the left'")
    return text


@dataclass(frozen=True)
class PromptMix:
    """What one chunk is conditioned on: the embedding (1 − weight)·previous + weight·next.

    `weight` is in [0, 1]; 1 means `next` alone, 0 `previous` alone.
    """

    previous: str
    next: str
    weight: float

    @property
    def leading(self) -> str:
        """The prompt that weighs more; of two that weigh the same, the newer."""
        return self.next if self.weight >= 0.5 else self.previous

    def __post_init__(self) -> None:
        assert 0 <= self.weight <= 1, self.weight


@dataclass(frozen=True)
class Cue:
    """From `chunk` on (0 is the first of the video) the prompt is `prompt`.

    `transition_chunks` S spreads the change over S chunks with weights linspace(0, 1, S): the first of three chunks
    still shows the old prompt, the second half of each, the third the new one. 0 and 1 change at once.
    """

    chunk: int
    prompt: str
    transition_chunks: int = 0

    def __post_init__(self) -> None:
        require_prompt(self.prompt)
        if self.chunk < 0:
            raise UserError(f"chunk={self.chunk} is before the video; the first chunk is 0")
        if self.transition_chunks < 0:
            raise UserError(f"transition_chunks={self.transition_chunks} is negative; use 0 to change at once")

    def mix(self, origin: str, chunk: int) -> PromptMix:
        """What `chunk`, not before this cue, is conditioned on when the blend leaves from the prompt `origin`."""
        offset, last = chunk - self.chunk, self.transition_chunks - 1
        return PromptMix(origin, self.prompt, 1.0 if offset >= last else offset / last)


@dataclass(frozen=True)
class PromptTimeline:
    """Cues in the order of their chunks; the first at chunk 0. The last prompt stays for ever.

    A blend is between two prompts. When a cue begins before the blend of the cue before it has ended, the new blend
    leaves from the prompt that weighed more in the last chunk before it (of two that weighed the same, the newer).
    """

    cues: tuple[Cue, ...]

    def __post_init__(self) -> None:
        if not self.cues:
            raise UserError("the timeline is empty; give at least one prompt, at 0:00")
        _check_first(self.cues[0])
        for before, cue in pairwise(self.cues):
            _check_order(before, cue)

    def at(self, chunk: int) -> PromptMix:
        """What the chunk with this index (from 0, no upper end) is conditioned on."""
        assert chunk >= 0, chunk
        started = [cue for cue in self.cues if cue.chunk <= chunk]
        origin = started[0].prompt
        for cue, switch in pairwise(started):
            origin = cue.mix(origin, switch.chunk - 1).leading
        return started[-1].mix(origin, chunk)

    def with_prompt(self, chunk: int, prompt: str, transition_chunks: int = 0) -> "PromptTimeline":
        """The timeline that has `prompt` from `chunk` on; cues at that chunk or later are dropped.

        For steering a live video: `chunk` is the next one to be made. The blend leaves from the prompt that the
        chunk before it showed most; at chunk 0 nothing was shown yet, and the prompt applies at once.

        Raises:
            UserError: the prompt is blank or invalid, or a number is negative.
        """
        kept = tuple(cue for cue in self.cues if cue.chunk < chunk)
        cue = Cue(chunk, prompt, transition_chunks)
        return PromptTimeline((*kept, cue) if kept else (Cue(cue.chunk, cue.prompt),))


def read_timeline(path: Path) -> PromptTimeline:
    """The timeline in a UTF-8 file, in either form that `parse_timeline` knows.

    Raises:
        UserError: the file is missing, unreadable, not UTF-8, larger than `MAX_TIMELINE_BYTES`, or its text is wrong.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TIMELINE_BYTES + 1)
    except OSError as error:
        raise UserError(f"the timeline {path} cannot be read ({error.strerror}); give an existing text file") from None
    if len(data) > MAX_TIMELINE_BYTES:
        raise UserError(f"the timeline {path} is larger than {MAX_TIMELINE_BYTES} bytes; give a file of prompts")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"the timeline {path}: line {line} is not UTF-8; save the file as UTF-8 text") from None
    with _located(f"the timeline {path}"):
        return parse_timeline(text)


def parse_timeline(text: str) -> PromptTimeline:
    """The timeline written in `text`, as lines or as JSON.

    Lines hold a start, an optional blend and the prompt::

        # a hash is a comment, unless a digit follows it
        0:00 a red fish swims
        0:08 +3 the fish turns blue
        20s a shark comes
        #30 +2 the sea is empty

    The start is a time (`m:ss`, `h:mm:ss` or seconds `20s`, fractions allowed), or `#30`, the chunk of that number. A
    time means the chunk whose start is nearest. `+3` blends over three chunks. JSON is a list of objects with `prompt`,
    either `time` (a text as above, or seconds) or `chunk`, and optionally `transition_chunks`.

    Raises:
        UserError: names the line (or the number of the cue, in JSON) and what to write instead.
    """
    if text.lstrip().startswith(("[", "{")):
        return _assemble(_json_items(text), _cue_from_item)
    return _assemble(_content_lines(text), _cue_from_line)


def _assemble(entries: Iterable[tuple[str, Entry]], to_cue: Callable[[Entry], Cue]) -> PromptTimeline:
    """Cues of (place in the file, entry) pairs, with the place in front of every message."""
    cues: list[Cue] = []
    for place, entry in entries:
        with _located(place):
            cue = to_cue(entry)
            if cues:
                _check_order(cues[-1], cue)
            else:
                _check_first(cue)
            cues.append(cue)
    return PromptTimeline(tuple(cues))


@contextmanager
def _located(place: str) -> Iterator[None]:
    """Put where it happened in front of the message of a user's mistake."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{place}: {error}") from None


def _check_first(cue: Cue) -> None:
    if cue.chunk > 0:
        raise UserError(f"the first prompt starts at chunk {cue.chunk}; start it at 0:00, a video needs one at once")
    if cue.transition_chunks > 0:
        raise UserError("the first prompt has nothing to blend from; leave out its blend")


def _check_order(before: Cue, cue: Cue) -> None:
    if cue.chunk <= before.chunk:
        raise UserError(
            f"this prompt starts at chunk {cue.chunk}, the one before it at chunk {before.chunk}; put prompts in the "
            f"order of time, at least one chunk ({CHUNK_SECONDS} seconds) apart"
        )


def _content_lines(text: str) -> Iterator[tuple[str, str]]:
    """Lines that are neither blank nor comments, each with its name. Only real line ends count, as in an editor."""
    for number, raw in enumerate(re.split(r"\r\n|\n|\r", text.removeprefix("\ufeff")), start=1):
        line = raw.strip()
        if line and not re.match(r"#(?![0-9])", line):
            yield f"line {number}", line


def _cue_from_line(line: str) -> Cue:
    start, *rest = line.split(maxsplit=1)
    match = re.fullmatch(r"(?:\+([0-9]+)(?!\S)\s*)?(.*)", rest[0] if rest else "")
    assert match is not None, line
    blend, prompt = match.groups()
    if not prompt:
        raise UserError(f"there is no prompt after {_short(line)}; {_HOW_TO_WRITE}")
    return Cue(_chunk_at(start), prompt, _whole_number(blend or "0"))


def _json_items(text: str) -> Iterator[tuple[str, object]]:
    """The members of a JSON list, each with its name."""
    try:
        items = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"line {error.lineno} is not JSON ({error.msg}); {_HOW_TO_WRITE}, or a JSON list") from None
    except (ValueError, RecursionError):  # an integer of thousands of digits; brackets nested thousands deep
        raise UserError(f"the JSON cannot be read; {_HOW_TO_WRITE}, or a JSON list") from None
    if not isinstance(items, list):
        raise UserError('the JSON is no list; write [{"time": "0:00", "prompt": "a red fish swims"}, ...]')
    return ((f"cue {number}", item) for number, item in enumerate(items, start=1))


def _cue_from_item(item: object) -> Cue:
    if not isinstance(item, dict):
        raise UserError('this is no object; write {"time": "0:00", "prompt": "a red fish swims"}')
    if unknown := sorted(set(item) - _CUE_KEYS):
        raise UserError(f"{_short(', '.join(unknown))} is not known; use {', '.join(sorted(_CUE_KEYS))}")
    if ("time" in item) == ("chunk" in item):
        raise UserError('give either "time", for example "0:08", or "chunk", for example 6')
    chunk = _whole_value("chunk", item["chunk"]) if "chunk" in item else _chunk_at(item["time"])
    blend = _whole_value("transition_chunks", item.get("transition_chunks", 0))
    return Cue(chunk, require_prompt(item.get("prompt", "")), blend)


def _chunk_at(start: object) -> int:
    """Chunk that a start means: the text `m:ss`, `h:mm:ss`, `8s` or `#6`, or a number of seconds."""
    if isinstance(start, int | float) and not isinstance(start, bool):
        return _nearest_chunk(start)
    text = str(start)
    if match := re.fullmatch(r"#([0-9]+)", text):
        return _whole_number(match[1])
    if match := re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)s", text):
        return _nearest_chunk(float(match[1]))
    if match := re.fullmatch(r"(?:([0-9]{1,4}):)?([0-9]{1,4}):([0-5][0-9](?:\.[0-9]{1,9})?)", text):
        hours, minutes, seconds = match.groups("0")
        return _nearest_chunk(3600 * int(hours) + 60 * int(minutes) + float(seconds))
    raise UserError(f"{_short(text)} is no time; {_HOW_TO_WRITE}")


def _nearest_chunk(seconds: int | float) -> int:
    """Chunk whose start is nearest to a time; the later one of two that are equally near."""
    if not 0 <= seconds <= MAX_FRAMES / FPS:  # not-a-number is refused too
        raise UserError(
            f"the time {_short(str(seconds))} is out of range; use seconds up to {MAX_FRAMES // FPS}, a day"
        )
    return math.floor(seconds / CHUNK_SECONDS + 0.5)


def _whole_number(digits: str) -> int:
    """Decimal digits as a number of chunks, refusing what could not be one."""
    if len(digits) > 9:
        raise UserError(f"{_short(digits)} is too large a number of chunks; use up to 9 digits")
    return int(digits)


def _whole_value(name: str, value: object) -> int:
    """A JSON value as a number of chunks."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise UserError(f"{name}={_short(repr(value))} is not a whole number; use 0 or more")
    return value


def _short(text: str) -> str:
    """Text for a one-line message."""
    return repr(text if len(text) <= 40 else text[:37] + "...")
