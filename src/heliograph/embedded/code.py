"""The linear code of the embedded model's autoencoder: principal components of the world's patches, in closed form."""

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from heliograph.data.diorama.render import Footage, render
from heliograph.data.world import cell_share, unit_pixels
from heliograph.embedded.mix import mixed_record
from heliograph.linear_autoencoder import PATCH_VALUES, LinearAutoencoder, balanced_std, smaller, to_patches
from heliograph.shapes import CHUNK_FRAMES, FRAME_STRIDE, LATENT_STRIDE

SUBJECT_WEIGHT = 4.0
"""What a patch that shows a subject counts, beside 1 for scenery: subjects are small, and what people look at."""

FIRST_SEED = 2**40
"""Seeds of records from which the code is found; those of training begin at 0."""


def fit_code(num_clips: int, size: tuple[int, int], z_dim: int, decoder_dim: int, stride: int) -> LinearAutoencoder:
    """An autoencoder with the code of `num_clips` clips of 33 frames, and a decoder network that adds nothing yet.

    `stride` is the side of a cell in pixels; `size` is height and width of the clips.
    """
    total, first = torch.zeros((), dtype=torch.float64), torch.zeros(PATCH_VALUES, dtype=torch.float64)
    second = torch.zeros(PATCH_VALUES, PATCH_VALUES, dtype=torch.float64)
    for seed in range(FIRST_SEED, FIRST_SEED + num_clips):
        footage = render([mixed_record(seed)], [24 * (seed % 5)], CHUNK_FRAMES, *size)
        patches, weight = patches_of(footage, stride)
        total += weight.sum()
        first += (weight @ patches).double()
        second += ((patches * weight[:, None]).T @ patches).double()
    mean = first / total
    values, vectors = torch.linalg.eigh(second / total - mean[:, None] * mean)
    order = values.argsort(descending=True)[:z_dim]
    basis, std = vectors[:, order].T.float().contiguous(), values[order].clamp(min=1e-8).sqrt().float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LinearAutoencoder(z_dim, decoder_dim, (0.0,) * z_dim, balanced_std(std).tolist(), stride)
    model.mean.data.copy_(mean.float())
    model.basis.data.copy_(basis)
    return model.eval()


def patches_of(footage: Footage, stride: int) -> tuple[Float[Tensor, "n p"], Float[Tensor, " n"]]:
    """All patches of one rendered chunk as the code sees them, and their weights."""
    frames = smaller(unit_pixels(footage.frames[0]), stride // LATENT_STRIDE)
    frames = torch.cat([repeat(frames[:, :, :1], "b c 1 h w -> b c r h w", r=FRAME_STRIDE - 1), frames], dim=2)
    weight = 1 + (SUBJECT_WEIGHT - 1) * cell_share(footage.mask[0], stride)
    return rearrange(to_patches(frames), "1 t h w p -> (t h w) p"), rearrange(weight, "t h w -> (t h w)")
