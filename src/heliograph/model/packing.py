"""Several linear layers of one input as one matrix product, their names and tensors as they were.

The layers' weights become views of one matrix, so nothing is stored twice, and loading, saving and adapters see three
layers as before. Whatever replaces a layer or moves a tensor takes the views apart; then each layer works by itself.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


@torch.no_grad()
def pack(layers: Sequence[nn.Module]) -> None:
    """Lay weights and biases of the layers side by side in memory; does nothing where one is no plain linear layer."""
    plain = [layer for layer in layers if type(layer) is nn.Linear and layer.bias is not None]
    if len(plain) < len(layers):
        return
    weights = torch.cat([layer.weight for layer in plain]).split([layer.out_features for layer in plain])
    biases = torch.cat([layer.bias for layer in plain]).split([layer.out_features for layer in plain])
    for layer, weight, bias in zip(plain, weights, biases, strict=True):
        layer.weight.data, layer.bias.data = weight, bias


def packed(layers: Sequence[nn.Module]) -> tuple[Float[Tensor, "rows d"], Float[Tensor, " rows"]] | None:
    """Weight and bias of all layers in one, without a copy; None where they do not lie side by side."""
    plain = [layer for layer in layers if type(layer) is nn.Linear and layer.bias is not None]
    if len(plain) < len(layers):
        return None
    weights, biases = [layer.weight for layer in plain], [layer.bias for layer in plain]
    if not (_are_side_by_side(weights) and _are_side_by_side(biases)):
        return None
    rows = sum(layer.out_features for layer in plain)
    return (
        weights[0].detach().as_strided((rows, weights[0].shape[1]), weights[0].stride()),
        biases[0].detach().as_strided((rows,), (1,)),
    )


def product(
    x: Float[Tensor, "b n d"], layers: tuple[nn.Module, ...], count: int
) -> tuple[Float[Tensor, "b m d2"], ...]:
    """What each layer gives; the first one for the last `count` tokens only."""
    matrix = None if torch.is_grad_enabled() or torch.compiler.is_compiling() else packed(layers)
    if matrix is None:
        return layers[0](x[:, -count:]), *(layer(x) for layer in layers[1:])
    weight, bias = matrix
    rows = weight.shape[0] // len(layers)
    if count == x.shape[1]:
        return F.linear(x, weight, bias).split(rows, dim=-1)
    others = F.linear(x, weight[rows:], bias[rows:]).split(rows, dim=-1)
    return F.linear(x[:, -count:], weight[:rows], bias[:rows]), *others


def _are_side_by_side(tensors: Sequence[Tensor]) -> bool:
    """Whether each tensor begins where the one before it ends, all of one dtype and contiguous."""
    first = tensors[0]
    storage = first.untyped_storage()
    end = first.storage_offset()
    for tensor in tensors:
        is_next = tensor.untyped_storage()._cdata == storage._cdata and tensor.storage_offset() == end
        if not (is_next and tensor.is_contiguous() and tensor.dtype == first.dtype):
            return False
        end += tensor.numel()
    return True
