"""Which decoder turns latents into frames: the autoencoder's own, the same in few passes, or a small one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from einops import rearrange
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from heliograph.autoencoder import FastAutoencoder
from heliograph.errors import CheckpointError
from heliograph.lean_decoder import LeanDecoder
from heliograph.linear_autoencoder import LinearAutoencoder
from heliograph.vae import Autoencoder, Decoder
from heliograph.wan_decoder import WanDecoder, can_walk, passes_within

HALF = torch.float16
"""What decoding runs in on a GPU: bfloat16 has three bits less, which can be seen."""


def choose_decoder(
    autoencoder: Autoencoder,
    size: tuple[int, int],
    free_bytes: Callable[[torch.device], int],
    small: Path | None = None,
) -> Decoder | None:
    """What decodes chunks of `size` pixels, on the autoencoder's device; None is the autoencoder itself.

    On a CUDA device the Wan autoencoder is decoded in half precision and as few passes as fit into the free memory. On
    a CPU half precision is slower, so there the library's decode is bit for bit what runs. The embedded model's is
    decoded by three large products (`lean_decoder.py`).

    Args:
        autoencoder: of the model.
        size: height and width.
        free_bytes: memory that a device has left.
        small: the weights of a small decoder to use instead, an approximation.

    Raises:
        CheckpointError: the file of the small decoder is missing or holds something else.
    """
    if small is not None:
        return SmallDecoder(load_small_decoder(small), autoencoder)
    if isinstance(autoencoder, LinearAutoencoder) and autoencoder.device.type == "cpu" and autoencoder.decoder:
        return LeanDecoder(autoencoder)
    if autoencoder.device.type != "cuda" or not can_walk(autoencoder):
        return None
    channels = autoencoder.config.get("decoder_base_dim") or autoencoder.config["base_dim"]
    # The transformer's activations are not alive while a chunk is decoded, but the allocator does not give all back.
    passes = passes_within(free_bytes(autoencoder.device) * 3 // 4, *size, channels, HALF)
    return WanDecoder(cast("Any", autoencoder), HALF, passes)


class SmallDecoder:
    """A decoder of frame-wise convolutions in the shape of TAEHV, for the latents of another autoencoder."""

    def __init__(self, network: FastAutoencoder, autoencoder: Autoencoder) -> None:
        is_gpu = autoencoder.device.type == "cuda"
        self.dtype = HALF if is_gpu else torch.float32
        # Frame-wise convolutions are fastest on a GPU with the channels of a pixel side by side.
        layout = torch.channels_last if is_gpu else torch.contiguous_format
        module: Any = network.eval().requires_grad_(requires_grad=False)  # the library's `to` hides torch's keywords
        module.to(device=autoencoder.device, dtype=self.dtype, memory_format=layout)
        self._network = network
        place = {"device": autoencoder.device, "dtype": torch.float32}
        self._mean = rearrange(torch.tensor(autoencoder.config.latents_mean, **place), "c -> 1 c 1 1 1")
        self._std = rearrange(torch.tensor(autoencoder.config.latents_std, **place), "c -> 1 c 1 1 1")

    @torch.no_grad()
    def decode(self, z: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b 3 f h8 w8"]:
        """Frames in [-1, 1] of latents that are not normalised; the network reads normalised ones."""
        return self._network.decode(((z.float() - self._mean) / self._std).to(self.dtype)).sample


def load_small_decoder(file: Path) -> FastAutoencoder:
    """The network of the public `taew2_1` weights (.safetensors or .pth), or of its shape with other widths.

    An encoder in the file is not read.

    Raises:
        CheckpointError: the file is missing, damaged, or its tensors are not those of this shape.
    """
    try:
        if file.suffix == ".safetensors":
            tensors = load_file(file)
        else:
            tensors = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # the two readers have no common error
        raise CheckpointError(
            f"{file} cannot be read as weights ({type(error).__name__}); give taew2_1's file"
        ) from error
    network = FastAutoencoder(**_sizes(file, tensors))
    network.encoder = nn.Sequential()
    stored = {name: tensor for name, tensor in tensors.items() if not name.startswith("encoder.")}
    try:
        network.load_state_dict(stored)
    except RuntimeError as error:
        raise CheckpointError(
            f"{file} does not hold a decoder of TAEHV's shape: {' '.join(str(error).split())}"
        ) from error
    return network


def _sizes(file: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Widths and depth from the decoder's tensors."""
    blocks = [0, 0, 0]
    try:
        first = tensors["decoder.1.weight"]
        dims, index = [first.shape[0]], 3
        for stage in range(3):
            while f"decoder.{index}.conv.0.weight" in tensors:
                blocks[stage] += 1
                index += 1
            dims.append(tensors[f"decoder.{index + 2}.weight"].shape[0])
            index += 3
    except (KeyError, IndexError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{file} does not hold a decoder of TAEHV's shape; give taew2_1's file") from error
    if len(set(blocks)) != 1:
        raise CheckpointError(f"{file} has {blocks} blocks in its stages, which no decoder of TAEHV's shape has")
    return {"z_dim": first.shape[1], "decoder_dims": tuple(dims), "num_blocks": blocks[0]}
