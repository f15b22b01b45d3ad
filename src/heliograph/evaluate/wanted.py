"""Files of prompts: what is asked for in each video, by name, and what is known of it."""

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heliograph.data.diorama.record import Record
from heliograph.errors import UserError

BENCH_NAME = re.compile(r"(?P<id>\d+)_(?P<target>\d+)_ori(?P<frames>\d+)")
"""HeliosBench's names of files: id of the prompt, frames asked for, frames made."""

PROMPTS_FILE = "prompts.jsonl"
"""Prompts of the videos of a folder, which it carries with it; written beside videos that are made here."""

_SAFE_ID = re.compile(r"[\w.-]{1,100}")


@dataclass(frozen=True)
class Wanted:
    """What one video should show.

    Attributes:
        key: id of the prompt; the name of its video without its ending, or the id in a HeliosBench name.
        prompt: in words.
        num_frames: how long it should be, where the file says so.
        record: the clip of the procedural world that the words describe, where they do.
    """

    key: str
    prompt: str
    num_frames: int | None = None
    record: Record | None = None

    def as_json(self) -> dict[str, Any]:
        """A line of a JSON file of prompts."""
        known = {"id": self.key, "prompt": self.prompt, "num_frames": self.num_frames}
        record = None if self.record is None else dict(vars(self.record))
        return {name: value for name, value in (*known.items(), ("record", record)) if value is not None}


def read_wanted(file: Path) -> list[Wanted]:
    """All prompts of a file, in its order.

    A CSV has `id`, `prompt` and perhaps `duration` (frames), as HeliosBench's; JSON lines have `id`, `prompt` and
    perhaps `num_frames` and `record`; plain text has one prompt a line.

    Raises:
        UserError: the file cannot be read, or says something that cannot be meant.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise UserError(f"{file} cannot be read as text ({error}); give a CSV or a text file of prompts") from error
    if file.suffix.lower() == ".csv":
        found = _from_csv(file, text)
    elif file.suffix.lower() == ".jsonl":
        found = [_from_line(file, number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    else:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        found = [Wanted(f"{number:04}", line) for number, line in enumerate(lines, 1)]
    if not found:
        raise UserError(f"{file} holds no prompt; write one prompt a line")
    keys = [one.key for one in found]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise UserError(f"{file} has the id {twice!r} more than once; give every prompt an id of its own")
    return found


def match(file: Path, paths: Sequence[Path]) -> list[Wanted | None]:
    """What is wanted of each video; None where the file has nothing of that id.

    Plain text has no ids: its lines are those of the videos in the order of their names, as many as there are videos.
    """
    wanted = read_wanted(file)
    if file.suffix.lower() not in (".csv", ".jsonl"):
        if len(wanted) != len(paths):
            raise UserError(
                f"{file} has {len(wanted)} prompts for {len(paths)} videos; give one prompt a line for each"
            )
        return list(wanted)
    by_key = {one.key: one for one in wanted}
    return [by_key.get(bench_id(path) or "") or by_key.get(path.stem) for path in paths]


def bench_id(path: Path) -> str | None:
    """The id of the prompt in a HeliosBench file name, or None."""
    found = BENCH_NAME.fullmatch(path.stem)
    return found["id"] if found else None


def _from_csv(file: Path, text: str) -> list[Wanted]:
    rows = csv.DictReader(text.splitlines(keepends=True))
    if not {"id", "prompt"} <= set(rows.fieldnames or ()):
        raise UserError(f"{file} has the columns {rows.fieldnames}; a CSV of prompts needs id and prompt")
    try:
        return [
            Wanted(_key(file, row["id"].strip()), row["prompt"].strip(), _frames(file, row.get("duration")))
            for row in rows
            if row["id"] and row["prompt"]
        ]
    except csv.Error as error:
        raise UserError(f"{file} is no CSV that can be read ({error}); give the columns id and prompt") from error


def _from_line(file: Path, number: int, line: str) -> Wanted:
    try:
        values: Mapping[str, Any] = json.loads(line)
        key, prompt, record = str(values["id"]), str(values["prompt"]), values.get("record")
        known = None if record is None else Record(**record)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"line {number} of {file} is no prompt ({error}); give an object with id and prompt") from error
    return Wanted(_key(file, key), prompt, _frames(file, values.get("num_frames")), known)


def _key(file: Path, key: str) -> str:
    """An id is a part of a file name."""
    if not _SAFE_ID.fullmatch(key) or key.startswith("."):
        raise UserError(f"{file} has the id {key!r}; use letters, digits, - and _, as it names a file")
    return key


def _frames(file: Path, value: Any) -> int | None:
    if value in (None, ""):
        return None
    try:
        return int(value)
    except (ValueError, TypeError) as error:
        raise UserError(f"{file} asks for {value!r} frames; write a whole number") from error
