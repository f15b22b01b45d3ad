"""Blind votes of people on pairs of videos: which is shown where, what was said, and what it comes to."""

import hashlib
import json
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from heliograph.errors import OutputError, UserError
from heliograph.evaluate.statistics import share_interval
from heliograph.evaluate.summary import name_key
from heliograph.evaluate.videos import Video
from heliograph.media.target import write_whole

Choice = Literal["left", "right", "same"]

CHOICES: tuple[Choice, ...] = ("left", "right", "same")


@dataclass(frozen=True)
class Pair:
    """Two videos of the same prompt.

    Attributes:
        key: what they have in common; it never leaves the program before the end.
        prompt: what was asked for, if known.
        first, second: files, of the first and the second folder.
        is_swapped: the first is shown on the right.
    """

    key: str
    prompt: str | None
    first: Path
    second: Path
    is_swapped: bool

    @property
    def sides(self) -> tuple[Path, Path]:
        """The files on the left and on the right."""
        return (self.second, self.first) if self.is_swapped else (self.first, self.second)


@dataclass(frozen=True)
class Outcome:
    """What the votes come to.

    Attributes:
        first, second, same: votes for either folder, and for neither.
        share: of the second folder among votes that prefer one, with its 95 % interval (Wilson); None without any.
        p: of as lopsided a result, or more, if each preference were a coin's toss (sign test, two-sided).
    """

    first: int
    second: int
    same: int
    share: float | None
    low: float | None
    high: float | None
    p: float | None

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return dict(vars(self))


def make_pairs(first: Sequence[Video], second: Sequence[Video], seed: int) -> list[Pair]:
    """Every prompt that both folders have, in an order and with sides that follow from the seed alone.

    Raises:
        UserError: the folders share no prompt.
    """
    others = {name_key(video): video for video in second}
    shared = [(name_key(video), video, others[name_key(video)]) for video in first if name_key(video) in others]
    if not shared:
        raise UserError("the folders share no video of the same name or HeliosBench id; there is nothing to vote on")
    pairs = [
        Pair(key, a.prompt or b.prompt, a.path, b.path, bool(_digest(seed, "side", key) % 2)) for key, a, b in shared
    ]
    return sorted(pairs, key=lambda pair: _digest(seed, "place", pair.key))


class Ballot:
    """The votes of one comparison, on disk after each; started again it goes on."""

    def __init__(self, file: Path, folders: tuple[Path, Path], videos: tuple[Sequence[Video], Sequence[Video]]) -> None:
        """Read the votes that are there.

        Raises:
            UserError: the file has votes on other folders, or the folders share nothing.
            OutputError: it cannot be written.
        """
        self._file = file
        self._names = [str(folder.resolve()) for folder in folders]
        stored = _read(file)
        if stored and stored["folders"] != self._names:
            raise UserError(f"{file} has votes on {' and '.join(stored['folders'])}; choose another --output")
        self._seed: int = stored.get("seed", secrets.randbits(32))
        self.pairs = make_pairs(*videos, self._seed)
        self._votes: dict[str, str] = dict(stored.get("votes", {}))
        self._write()

    @property
    def next(self) -> int | None:
        """The first pair without a vote; None when all have one."""
        return next((index for index, pair in enumerate(self.pairs) if pair.key not in self._votes), None)

    @property
    def num_votes(self) -> int:
        """Pairs with a vote."""
        return sum(pair.key in self._votes for pair in self.pairs)

    def cast(self, index: int, choice: Choice) -> None:
        """Take a vote on a pair; a later one replaces it. Raises OutputError."""
        pair = self.pairs[index]
        winner = {"left": "second" if pair.is_swapped else "first", "right": "first" if pair.is_swapped else "second"}
        self._votes[pair.key] = winner.get(choice, "same")
        self._write()

    def take_back(self) -> int | None:
        """Forget the vote cast last; returns its pair, or None if there is none."""
        if not self._votes:
            return None
        key = list(self._votes)[-1]
        del self._votes[key]
        self._write()
        return next((index for index, pair in enumerate(self.pairs) if pair.key == key), None)

    def outcome(self) -> Outcome:
        """What the votes so far come to."""
        keys = {pair.key for pair in self.pairs}
        return count([vote for key, vote in self._votes.items() if key in keys])

    def _write(self) -> None:
        keys = {pair.key for pair in self.pairs}
        values = {
            "folders": self._names,
            "seed": self._seed,
            "votes": self._votes,
            "num_pairs": len(self.pairs),
            "result": count([vote for key, vote in self._votes.items() if key in keys]).as_json(),
        }
        write_whole(self._file, json.dumps(values, indent=1, ensure_ascii=False).encode())


def count(votes: Sequence[str]) -> Outcome:
    """Votes `first`, `second`, `same` in numbers."""
    first, second, same = (votes.count(name) for name in ("first", "second", "same"))
    if not first + second:
        return Outcome(first, second, same, None, None, None, None)
    share = share_interval(second, first + second)
    return Outcome(first, second, same, share.mean, share.low, share.high, sign_test(second, first + second))


def sign_test(successes: int, tries: int) -> float:
    """Chance of a split at least as far from even in `tries` tosses of a coin."""
    far = max(successes, tries - successes)
    tail = sum(math.comb(tries, k) for k in range(far, tries + 1)) / 2**tries
    return min(1.0, 2 * tail)


def _read(file: Path) -> Mapping[str, Any]:
    if not file.exists():
        return {}
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        return {"folders": list(stored["folders"]), "seed": int(stored["seed"]), "votes": dict(stored["votes"])}
    except OSError as error:
        raise OutputError(f"{file} cannot be read ({error.strerror}); choose another --output") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} holds no votes that can be read; move it away, or choose another --output") from error


def _digest(seed: int, purpose: str, key: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {purpose} {key}".encode()).digest()[:8], "big")
