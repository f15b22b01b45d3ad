"""The linear code of the embedded model's autoencoder: principal components of the world's patches, in closed form."""

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from heliograph.data.diorama.render import Footage, render
from heliograph.data.world import cell_share, unit_pixels
from heliograph.embedded.mix import mixed_record
from heliograph.errors import UserError
from heliograph.linear_autoencoder import PATCH_VALUES, LinearAutoencoder, balanced_std, smaller, to_patches
from heliograph.shapes import CHUNK_FRAMES, FRAME_STRIDE, LATENT_STRIDE

CODE_CLIPS = 400
"""Clips that the code is found from."""

SUBJECT_WEIGHT = 4.0
"""What a patch that shows a subject counts, beside 1 for scenery: subjects are small, and what people look at."""

FIRST_SEED = 2**40
"""Seeds of records from which the code is found; those of training begin at 0."""


def fit_code(num_clips: int, size: tuple[int, int], z_dim: int, decoder_dim: int, stride: int) -> LinearAutoencoder:
    """An autoencoder with the code of `num_clips` clips of 33 frames, and a decoder network that adds nothing yet.

    `stride` is the side of a cell in pixels; `size` is height and width of the clips.
    """
    mean, covariance = _moments(num_clips, size, stride)
    basis, std = _principal(covariance, z_dim)
    return _autoencoder(mean, basis, balanced_std(std), decoder_dim, stride)


def extend_code(code: LinearAutoencoder, num_clips: int, size: tuple[int, int], z_dim: int) -> LinearAutoencoder:
    """The same code with further components, `z_dim` in all: the principal ones of what it leaves over.

    What it said so far keeps its numbers, so a network that knows them goes on knowing them. Networks of the decoder
    are fresh.

    Raises:
        UserError: the code has as many components already.
    """
    basis, std = code.basis.data, torch.tensor(code.config["latents_std"])
    if z_dim <= len(basis):
        raise UserError(f"a code of {len(basis)} components cannot be extended to {z_dim}; ask for more")
    _, covariance = _moments(num_clips, size, code.stride)
    spread = (basis.double() @ covariance @ basis.double().T).diagonal().sqrt().float()
    rest = torch.eye(PATCH_VALUES, dtype=torch.float64) - basis.double().T @ basis.double()
    further, further_std = _principal(rest @ covariance @ rest, z_dim - len(basis))
    factor = (std / spread.sqrt()).mean()  # of `balanced_std`, as it was for the components there are
    std = torch.cat([std, factor * further_std.sqrt()])
    decoder_dim = code.config["decoder_dim"]
    return _autoencoder(code.mean.data, torch.cat([basis, further]), std, decoder_dim, code.stride)


def same_code(code: LinearAutoencoder, stride: int) -> LinearAutoencoder:
    """The same components and deviations for cells of another size; networks of the decoder are fresh.

    Natural for half the side and a picture of twice the size: principal components of 8 × 8 pixels hardly depend on
    which of the two they are found from (0.1 dB of all pixels, 0.3 dB of subjects).
    """
    std = torch.tensor(code.config["latents_std"])
    return _autoencoder(code.mean.data, code.basis.data, std, code.config["decoder_dim"], stride)


def _moments(num_clips: int, size: tuple[int, int], stride: int) -> tuple[Tensor, Tensor]:
    """Weighted mean (p) and covariance (p p) of patches of `num_clips` clips, float64."""
    total, first = torch.zeros((), dtype=torch.float64), torch.zeros(PATCH_VALUES, dtype=torch.float64)
    second = torch.zeros(PATCH_VALUES, PATCH_VALUES, dtype=torch.float64)
    for seed in range(FIRST_SEED, FIRST_SEED + num_clips):
        footage = render([mixed_record(seed)], [24 * (seed % 5)], CHUNK_FRAMES, *size)
        patches, weight = patches_of(footage, stride)
        total += weight.sum()
        first += (weight @ patches).double()
        second += ((patches * weight[:, None]).T @ patches).double()
    mean = first / total
    return mean, second / total - mean[:, None] * mean


def _principal(covariance: Float[Tensor, "p p"], count: int) -> tuple[Float[Tensor, "c p"], Float[Tensor, " c"]]:
    """The first `count` principal components, largest first, and their deviations."""
    values, vectors = torch.linalg.eigh(covariance)
    order = values.argsort(descending=True)[:count]
    return vectors[:, order].T.float().contiguous(), values[order].clamp(min=1e-8).sqrt().float()


def _autoencoder(
    mean: Tensor, basis: Float[Tensor, "c p"], std: Float[Tensor, " c"], decoder_dim: int, stride: int
) -> LinearAutoencoder:
    """The autoencoder of a code, its networks fresh and the same at every call."""
    z_dim = len(basis)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LinearAutoencoder(z_dim, decoder_dim, (0.0,) * z_dim, std.tolist(), stride)
    model.mean.data.copy_(mean.float())
    model.basis.data.copy_(basis)
    return model.eval()


def patches_of(footage: Footage, stride: int) -> tuple[Float[Tensor, "n p"], Float[Tensor, " n"]]:
    """All patches of one rendered chunk as the code sees them, and their weights."""
    frames = smaller(unit_pixels(footage.frames[0]), stride // LATENT_STRIDE)
    frames = torch.cat([repeat(frames[:, :, :1], "b c 1 h w -> b c r h w", r=FRAME_STRIDE - 1), frames], dim=2)
    weight = 1 + (SUBJECT_WEIGHT - 1) * cell_share(footage.mask[0], stride)
    return rearrange(to_patches(frames), "1 t h w p -> (t h w) p"), rearrange(weight, "t h w -> (t h w)")
