"""What a block takes over about the history from an earlier forward of the same chunk.

Exactly: in block 0 the history's tokens, their modulation (timestep 0) and their positions are the same in every step
and on every level, so its queries, keys and values are made once a chunk. From its output on, history depends on the
noise, because its queries attend to the chunk.

Approximately, where asked for: keys and values of the history in every block are taken from the first forward, of the
chunk or of its level, and its tokens are left out of all later ones. For each prompt a chunk's memo has one `Noted`
with them: a level's take the place of those of the level before, which nobody reads any more.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from heliograph.kernels.pieces import Pieces
from heliograph.model.memo import Forgetful, Memo, Memos


def constant_key(num_samples: int) -> Hashable:
    """Where a chunk's memo has the history's rows in block 0, for a call with so many samples.

    One chunk may be asked for in calls of different sizes: both branches of guidance at once, and one alone on a level
    without.
    """
    return ("rows of block 0", num_samples)


@dataclass(frozen=True)
class Rows:
    """Queries, keys and values of some tokens, as attention takes them; the queries are those of the last tokens.

    Keys and values of what comes `earlier` lie apart: not every kernel needs them joined.
    """

    query: Float[Tensor, "b m k e"]
    key: Float[Tensor, "b n k e"]
    value: Float[Tensor, "b n k e"]
    earlier: "Rows | None" = None

    @property
    def keys(self) -> Pieces:
        """Keys of all tokens."""
        return self.key if self.earlier is None else (self.earlier.key, self.key)

    @property
    def values(self) -> Pieces:
        """Values of all tokens."""
        return self.value if self.earlier is None else (self.earlier.value, self.value)

    def before(self, later: "Rows", num_asking: int) -> "Rows":
        """These tokens and then those of `later`; only the last `num_asking` of all ask."""
        is_asked = num_asking > later.query.shape[1]
        query = torch.cat([self.query, later.query], dim=1) if is_asked else later.query
        return Rows(query[:, -num_asking:], later.key, later.value, self)

    def first(self, count: int) -> "Rows":
        """Keys and values of the first tokens, which ask nothing: of the earlier ones, where these lie apart."""
        rows = self.earlier or self
        assert rows.key.shape[1] >= count, (rows.key.shape, count)
        return Rows(self.query[:, :0], rows.key[:, :count], rows.value[:, :count])

    def copied(self) -> "Rows":
        """The same in memory of their own; nothing comes earlier."""
        return Rows(self.query.clone(), self.key.clone(), self.value.clone())

    def overwrite(self, new: "Rows") -> None:
        """Put the keys and values of `new`, which ask nothing, in the place of these."""
        self.key.copy_(new.key)
        self.value.copy_(new.value)


class Noted:
    """The history's rows by block, as one forward notes them for all later ones of its level (None: of its chunk)."""

    def __init__(self, level: Hashable | None, num_blocks: int, rows: Mapping[int, Rows] | None = None) -> None:
        self.level = level
        self.num_blocks = num_blocks
        self.rows: Mapping[int, Rows] = rows or {}

    @property
    def is_known(self) -> bool:
        """Whether the rows of every block are there to be taken over."""
        return len(self.rows) == self.num_blocks

    def note(self, block: int, rows: Rows) -> None:
        """Keep copies of these rows of the history: they are parts of tensors that hold the chunk's, too."""
        self.rows = {**self.rows, block: rows.copied()}


class NotedInPlace(Noted):
    """Fixed memory to which every forward copies its rows anew, for a recording: nothing in it is ever known."""

    @property
    def is_known(self) -> bool:
        """Never."""
        return False

    def note(self, block: int, rows: Rows) -> None:
        """Copy to the block's place."""
        self.rows[block].overwrite(rows)


@dataclass(frozen=True)
class Past:
    """The history for one block.

    `memo` is the chunk's. `length` is the number of history tokens that come in with the others. `noted` has the rows
    that this and later forwards share; None shares none. `is_constant` says that the history comes in as it always does
    in this chunk.
    """

    block: int
    memo: Memo
    length: int
    noted: Noted | None
    is_constant: bool

    @property
    def is_left_out(self) -> bool:
        """Whether the history's rows are known and its tokens are not there."""
        return self.noted is not None and self.length == 0

    @property
    def num_known(self) -> int:
        """Tokens at the front whose rows need not be made."""
        return self.length if self.is_constant else 0

    @torch.compiler.disable()  # compiled once for all blocks, not for every state of a memo
    def known(self, make: Callable[[], Rows], num_samples: int) -> Rows | None:
        """Rows of the history, of so many samples, from an earlier forward.

        `make` makes them where they are constant but not known yet.
        """
        if self.noted is not None and self.is_left_out:
            return self.noted.rows[self.block]
        return self.memo.recall(constant_key(num_samples), make) if self.is_constant else None

    @torch.compiler.disable()
    def note(self, rows: Rows) -> None:
        """Remember what later forwards will take over from these rows of all tokens."""
        if self.noted is not None and self.length > 0:
            self.noted.note(self.block, rows.first(self.length))


@dataclass(frozen=True)
class PastSource:
    """The history for every block of one forward; `is_clean`: modulated as clean whatever the chunk's timestep."""

    memo: Memo
    length: int
    noted: Noted | None
    is_clean: bool

    def of(self, block: int) -> Past:
        """For one block."""
        is_kept = self.length > 0 and not isinstance(self.memo, Forgetful)
        return Past(block, self.memo, self.length, self.noted, is_constant=block == 0 and self.is_clean and is_kept)


def noted_key(prompt: Memo) -> Hashable:
    """Where a chunk's memo has what was noted under this prompt.

    Rows depend on the prompt: the chunk's tokens have read it, and the history's attend to those. The memo itself is in
    the key, so that no later one can be taken for it.
    """
    return ("noted", prompt)


def noted_for(memos: Memos, level: Hashable, num_blocks: int) -> Noted | None:
    """What a call on this level shares with others: rows to take over, or still to be noted. None shares nothing."""
    if memos.history_reuse == "off":
        return None
    shared, key = level if memos.history_reuse == "level" else None, noted_key(memos.prompt)
    noted = memos.chunk.value(key) if memos.chunk.holds(key) else None
    if isinstance(noted, Noted) and noted.level == shared:
        return noted
    fresh = Noted(shared, num_blocks)
    memos.chunk.keep(key, fresh)
    return fresh
