"""Tokens that lie in several tensors, one after another: joined where they must be, left apart where they need not."""

import torch
from jaxtyping import Float
from torch import Tensor

Pieces = Float[Tensor, "b _ k e"] | tuple[Float[Tensor, "b _ k e"], ...]
"""Heads of tokens, in one tensor or in several that follow each other along the tokens."""


def pieces_of(x: Pieces) -> tuple[Tensor, ...]:
    """The tensors."""
    return x if isinstance(x, tuple) else (x,)


def joined(x: Pieces) -> Float[Tensor, "b n k e"]:
    """One tensor: a copy where there are several."""
    pieces = pieces_of(x)
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)


def num_tokens(x: Pieces) -> int:
    """How many tokens there are in all."""
    return sum(piece.shape[1] for piece in pieces_of(x))
