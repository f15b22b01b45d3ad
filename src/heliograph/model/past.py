"""What a block takes over about the history from an earlier forward of the same chunk.

Exactly: in block 0 the history's tokens, their modulation (timestep 0) and their positions are the same in every step
and on every level, so its queries, keys and values are made once a chunk. From its output on, history depends on the
noise, because its queries attend to the chunk.

Approximately, where asked for: keys and values of the history in every block are taken from the first forward, of the
chunk or of its level, and its tokens are left out of all later ones.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from heliograph.model.memo import Forgetful, Memo

CONSTANT = "rows of block 0"
"""The key of the history's rows in block 0, in a chunk's memo."""


@dataclass(frozen=True)
class Rows:
    """Queries, keys and values of some tokens, as attention takes them; the queries are those of the last tokens."""

    query: Float[Tensor, "b m k e"]
    key: Float[Tensor, "b n k e"]
    value: Float[Tensor, "b n k e"]

    def before(self, later: "Rows", num_asking: int) -> "Rows":
        """These tokens and then those of `later`; only the last `num_asking` of all ask."""
        is_asked = num_asking > later.query.shape[1]
        query = torch.cat([self.query, later.query], dim=1) if is_asked else later.query
        return Rows(
            query[:, -num_asking:],
            torch.cat([self.key, later.key], dim=1),
            torch.cat([self.value, later.value], dim=1),
        )

    def first(self, count: int) -> "Rows":
        """Copies of keys and values of the first tokens, which ask nothing."""
        return Rows(self.query[:, :0], self.key[:, :count].clone(), self.value[:, :count].clone())


@dataclass(frozen=True)
class Past:
    """The history for one block.

    `memo` is the chunk's. `length` is the number of history tokens that come in with the others. `reuse` names the rows
    that this and later forwards share; None shares none. `is_constant` says that the history comes in as it always does
    in this chunk.
    """

    block: int
    memo: Memo
    length: int
    reuse: Hashable | None
    is_constant: bool

    @property
    def is_left_out(self) -> bool:
        """Whether the history's rows are known and its tokens are not there."""
        return self.reuse is not None and self.length == 0

    @property
    def num_known(self) -> int:
        """Tokens at the front whose rows need not be made."""
        return self.length if self.is_constant else 0

    @torch.compiler.disable()  # compiled once for all blocks, not for every state of a memo
    def known(self, make: Callable[[], Rows]) -> Rows | None:
        """Rows of the history from an earlier forward; `make` makes them where they are constant but not known yet."""
        if self.is_left_out:
            return self.memo.recall(("reused", self.reuse, self.block), _never)
        return self.memo.recall(CONSTANT, make) if self.is_constant else None

    @torch.compiler.disable()
    def note(self, rows: Rows) -> None:
        """Remember what later forwards will take over from these rows of all tokens."""
        if self.reuse is not None and self.length > 0:
            self.memo.recall(("reused", self.reuse, self.block), lambda: rows.first(self.length))


@dataclass(frozen=True)
class PastSource:
    """The history for every block of one forward; `is_clean`: modulated as clean whatever the chunk's timestep."""

    memo: Memo
    length: int
    reuse: Hashable | None
    is_clean: bool

    def of(self, block: int) -> Past:
        """For one block."""
        is_kept = self.length > 0 and not isinstance(self.memo, Forgetful)
        return Past(block, self.memo, self.length, self.reuse, is_constant=block == 0 and self.is_clean and is_kept)


def are_known(memo: Memo, reuse: Hashable | None, num_blocks: int) -> bool:
    """Whether an earlier forward has left the rows of every block."""
    return reuse is not None and memo.holds(("reused", reuse, num_blocks - 1))


def _never() -> Rows:
    raise AssertionError("the history was left out before its rows were known")
