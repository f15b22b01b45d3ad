"""What the transformer remembers between calls: everything that stays the same longer than one step.

Three lifetimes: for the model (rotary tables, timestep rows), for the prompt (text keys and values of every block), for
the chunk (history tokens, and what block 0 makes of them). Whoever owns a prompt or a chunk makes its memo and drops it
when it changes; after an adapter is loaded or merged, all of them are stale.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from heliograph.config import HistoryReuse

Value = TypeVar("Value")


class Memo:
    """Results by key; each is computed the first time it is asked for."""

    def __init__(self) -> None:
        self._values: dict[Hashable, object] = {}

    @classmethod
    def of(cls, values: Mapping[Hashable, object]) -> "Memo":
        """A memo that knows these values."""
        memo = cls()
        memo._values.update(values)
        return memo

    def recall(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of `key`, made now if it is not known yet."""
        if key not in self._values:
            self._values[key] = make()
        return self._values[key]  # pyright: ignore[reportReturnType] - a key is used with one type only

    def keep(self, key: Hashable, value: object) -> None:
        """Know this value from now on, whatever was known."""
        self._values[key] = value

    def holds(self, key: Hashable) -> bool:
        """Whether `key` is known."""
        return key in self._values

    def value(self, key: Hashable) -> object:
        """The value of a key that is known."""
        return self._values[key]

    def items(self) -> list[tuple[Hashable, object]]:
        """All that is known."""
        return list(self._values.items())


class Forgetful(Memo):
    """Remembers nothing: for training, where every value belongs to one graph."""

    def recall(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value, made anew."""
        return make()

    def keep(self, key: Hashable, value: object) -> None:
        """Nothing is known."""


@dataclass(frozen=True)
class Memos:
    """The three memos of one call, by how long they live, and how freely what the chunk's holds is used."""

    model: Memo = field(default_factory=Memo)
    prompt: Memo = field(default_factory=Memo)
    chunk: Memo = field(default_factory=Memo)
    history_reuse: HistoryReuse = "off"

    @classmethod
    def forgetful(cls) -> "Memos":
        """Memos that keep nothing."""
        return cls(Forgetful(), Forgetful(), Forgetful())
