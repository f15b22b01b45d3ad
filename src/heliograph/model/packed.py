"""Several sequences in one: which tokens are which, and attention that keeps the sequences apart.

Sampling knows one sequence, history then chunk. Training on a pyramid packs the levels of a clip into one forward pass,
each with its own copy of the history; no token sees one of another sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import accumulate

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from heliograph.model.embed import TimeRow


@dataclass(frozen=True)
class Part:
    """A noisy chunk of any pyramid level, height and width multiples of the patch, and its timestep in [0, 1000].

    The timestep is one plain number for the batch (whose modulation a memo can remember), or one per sample.
    """

    x: Float[Tensor, "b c t h w"]
    timestep: float | Float[Tensor, " b"]


@dataclass(frozen=True)
class Stretch:
    """Tokens side by side that share their modulation: `length` of the history, or of a chunk."""

    length: int
    time: TimeRow
    is_history: bool


@dataclass(frozen=True)
class TokenLayout:
    """The stretches of all sequences in token order, and the number of tokens of each sequence."""

    stretches: tuple[Stretch, ...]
    sequences: tuple[int, ...]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens in each stretch."""
        return tuple(stretch.length for stretch in self.stretches)

    @property
    def read(self) -> "TokenLayout":
        """The tokens that the output is made of: the chunk of one sequence; of several, all."""
        return self if len(self.sequences) > 1 else self.chunk

    @property
    def history(self) -> "TokenLayout":
        """The history of one sequence."""
        return TokenLayout(self.stretches[:1], (self.stretches[0].length,))

    @property
    def chunk(self) -> "TokenLayout":
        """The chunk of one sequence."""
        return TokenLayout(self.stretches[-1:], (self.stretches[-1].length,))

    @classmethod
    def join(cls, layouts: "Sequence[TokenLayout]") -> "TokenLayout":
        """The layouts of several sequences, one after another."""
        stretches = tuple(stretch for layout in layouts for stretch in layout.stretches)
        return cls(stretches, tuple(length for layout in layouts for length in layout.sequences))

    def split(self, tokens: Float[Tensor, "b n ..."]) -> tuple[Tensor, ...]:
        """The tokens of each stretch."""
        return tokens.split(list(self.lengths), dim=1)

    def split_sequences(self, tokens: Float[Tensor, "b n ..."]) -> tuple[Tensor, ...]:
        """The tokens of each sequence."""
        return tokens.split(list(self.sequences), dim=1)


def can_attend_packed(value: Float[Tensor, "b n k e"]) -> bool:
    """Whether PyTorch's attention over sequences of different lengths runs here: half precision on a CUDA device."""
    is_half = value.dtype in (torch.bfloat16, torch.float16)
    # The module is newer than the oldest PyTorch we run on.
    return value.is_cuda and is_half and find_spec("torch.nn.attention.varlen") is not None


def attend_packed(
    query: Float[Tensor, "b n k e"],
    key: Float[Tensor, "b n k e"],
    value: Float[Tensor, "b n k e"],
    sequences: tuple[int, ...],
) -> Float[Tensor, "b n k e"]:
    """softmax(q·kᵀ/√e)·v within each sequence, all in one kernel call; where `can_attend_packed` says so."""
    from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415 - see can_attend_packed

    batch, longest = value.shape[0], max(sequences)
    ends = list(accumulate(sequences * batch, initial=0))
    borders = torch.tensor(ends, dtype=torch.int32, device=value.device)
    # Norms and rotation leave queries and keys in float32 under autocast; the kernel wants one dtype.
    q, k, v = (rearrange(x.to(value.dtype), "b n k e -> (b n) k e") for x in (query, key, value))
    mixed = varlen_attn(q, k, v, borders, borders, longest, longest)
    assert isinstance(mixed, Tensor)
    return rearrange(mixed, "(b n) k e -> b n k e", b=batch)
