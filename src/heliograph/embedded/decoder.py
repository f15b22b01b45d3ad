"""Training of the embedded model's decoder: the linear code stays as it is, a network learns what it lacks.

First its output layers in closed form (least squares on random hidden units), then all of it by gradient descent, on
chunks of clips that are rendered once. Latents get a little noise, so that the decoder forgives the sampler's errors.
A network that was trained before, on pictures of another size say, goes on as it is.
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float, UInt8
from torch import Tensor

from heliograph.cell_decoder import CellDecoder
from heliograph.data.diorama.render import render
from heliograph.data.world import cell_share, unit_pixels
from heliograph.embedded.mix import mixed_record
from heliograph.embedded.recode import linear_code
from heliograph.embedded.small_training import store, train_until
from heliograph.linear_autoencoder import LinearAutoencoder, to_patches
from heliograph.shapes import CHUNK_FRAMES, FRAME_STRIDE
from heliograph.train.loop import cosine_rate

FIRST_SEED, HELDOUT_SEED = 2**41, 2**42
"""Seeds of training and of held-out clips."""

RIDGE = 1e-4
"""What the closed form adds to the mean square of every feature."""


@dataclass(frozen=True)
class DecoderConfig:
    """How the decoder is trained; `noise` is the largest deviation that normalised latents are disturbed by."""

    max_steps: int
    num_clips: int = 600
    batch_size: int = 8
    learning_rate: float = 5e-4
    warmup_steps: int = 50
    max_grad_norm: float = 1.0
    noise: float = 0.15
    subject_weight: float = 4.0
    seed: int = 0

    def rate_at(self, step: int) -> float:
        """Learning rate at `step`."""
        return self.learning_rate * cosine_rate(step, self.warmup_steps, self.max_steps)


@dataclass(frozen=True)
class Chunks:
    """Rendered chunks of many clips, and how much of each latent cell shows a subject."""

    frames: UInt8[Tensor, "n f 3 h w"]
    shares: Float[Tensor, "n t y x"]

    @classmethod
    def make(cls, num_clips: int, size: tuple[int, int], stride: int) -> "Chunks":
        """One chunk of each of `num_clips` clips of the mix, at different times; cells have `stride` pixels a side."""
        footage = [
            render([mixed_record(FIRST_SEED + i)], [CHUNK_FRAMES * (i % 7)], CHUNK_FRAMES, *size)
            for i in range(num_clips)
        ]
        shares = torch.stack([cell_share(each.mask[0], stride) for each in footage])
        return cls(torch.cat([each.frames for each in footage]), shares)

    def to(self, device: torch.device) -> "Chunks":
        """The same on a device."""
        return Chunks(self.frames.to(device), self.shares.to(device))


class DecoderTraining:
    """A decoder on its way: weights, moments and the number of the step, from which everything random follows.

    It is trained where the model is; numbers are drawn there too.
    """

    def __init__(self, model: LinearAutoencoder, config: DecoderConfig, chunks: Chunks) -> None:
        assert model.decoder is not None, "this autoencoder has no network to train"
        self.model, self.config, self.chunks = model, config, chunks.to(model.device)
        self.decoder: CellDecoder = model.decoder
        self.optimiser = torch.optim.AdamW(self.decoder.parameters(), lr=config.learning_rate, betas=(0.9, 0.98))
        self.step = 0

    @property
    def is_untrained(self) -> bool:
        """Whether the network still adds nothing, as it does when it is made."""
        return not any(layer.weight.any() for layer in (self.decoder.linear, self.decoder.leave))

    @torch.no_grad()
    def solve(self) -> None:
        """Set the output layers to the least squares solution, the hidden layers as they are."""
        gram = cross = None
        for first in range(0, len(self.chunks.frames), self.config.batch_size):
            last = min(first + self.config.batch_size, len(self.chunks.frames))
            rows = torch.arange(first, last, device=self.model.device)
            latents, wanted, weight = self._examples(rows, first)
            features = self._features(latents)
            weighted = (features * weight[:, None]).T
            gram = weighted @ features if gram is None else gram + weighted @ features
            cross = weighted @ wanted if cross is None else cross + weighted @ wanted
        assert gram is not None and cross is not None
        ridge = RIDGE * gram.diagonal().mean() * torch.eye(len(gram), device=gram.device)
        weights = torch.linalg.solve((gram + ridge).double(), cross.double()).float()
        linear, leave, bias = weights.split([self._num_linear(), self.decoder.leave.in_channels, 1])
        self.decoder.linear.weight.copy_(linear.T.unflatten(1, self.decoder.linear.weight.shape[1:]))
        self.decoder.leave.weight.copy_(leave.T[:, :, None, None])
        assert self.decoder.linear.bias is not None
        self.decoder.linear.bias.copy_(bias[0])

    def take_step(self) -> float:
        """One update; returns the loss: the weighted mean of |e| + 2·e² over pixels."""
        generator = self._generator(self.step)
        size = (self.config.batch_size,)
        rows = torch.randint(len(self.chunks.frames), size, generator=generator, device=self.model.device)
        latents, wanted, weight = self._examples(rows, self.step)
        with torch.autocast(latents.device.type, torch.bfloat16):
            added = rearrange(self.decoder(latents), "b t h w n -> (b t h w) n")
        error = added.float() - wanted
        loss = (weight[:, None] * (error.abs() + 2 * error.square())).mean() / weight.mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.decoder.parameters(), self.config.max_grad_norm)
        self.optimiser.param_groups[0]["lr"] = self.config.rate_at(self.step)
        self.optimiser.step()
        self.step += 1
        return float(loss.detach())

    def save(self, file: Path) -> None:
        """Store everything to go on from."""
        store(file, {"step": self.step, "decoder": self.decoder.state_dict(), "optimiser": self.optimiser.state_dict()})

    def resume(self, file: Path) -> None:
        """Go on from what `save` stored."""
        state = torch.load(file, weights_only=True, map_location=self.model.device)
        self.step = state["step"]
        self.decoder.load_state_dict(state["decoder"])
        self.optimiser.load_state_dict(state["optimiser"])

    @torch.no_grad()
    def _examples(
        self, rows: Tensor, number: int
    ) -> tuple[Float[Tensor, "b c t h w"], Float[Tensor, "n p"], Float[Tensor, " n"]]:
        """Normalised, slightly noisy latents of some chunks; what the decoder is to add to each cell; weights."""
        generator, device = self._generator(2**31 + number), self.model.device
        frames = torch.cat([unit_pixels(self.chunks.frames[row]) for row in rows.tolist()])
        z = self.model.encode(frames).latent_dist.mode()
        noise = self.config.noise * torch.rand(len(rows), 1, 1, 1, 1, generator=generator, device=device)
        latents = self.model.normalised(z) + noise * torch.randn(z.shape, generator=generator, device=device)
        scale = rearrange(torch.tensor(self.model.config["latents_std"], device=device), "c -> 1 c 1 1 1")
        given = self.model.unrefined(latents * scale)
        lead = repeat(frames[:, :, :1], "b c 1 h w -> b c r h w", r=FRAME_STRIDE - 1)
        wanted = to_patches(torch.cat([lead, frames], dim=2), self.model.stride) - given
        weight = 1 + (self.config.subject_weight - 1) * self.chunks.shares[rows]
        return latents, rearrange(wanted, "b t h w p -> (b t h w) p"), rearrange(weight, "b t h w -> (b t h w)")

    def _features(self, latents: Float[Tensor, "b c t h w"]) -> Float[Tensor, "n k"]:
        """What the output layers read of each cell: its surroundings, the hidden units, and 1."""
        cells = self.decoder.around(latents)
        near = rearrange(F.unfold(cells, 3, padding=1), "m k n -> (m n) k")
        hidden = rearrange(self.decoder.hidden(cells), "m k h w -> (m h w) k")
        return torch.cat([near, hidden, near.new_ones(len(near), 1)], dim=1)

    def _generator(self, number: int) -> torch.Generator:
        return torch.Generator(self.model.device).manual_seed(self.config.seed * 2**32 + number)

    def _num_linear(self) -> int:
        return self.decoder.linear.weight[0].numel()


def train_decoder(
    model: str, state: Path, config: DecoderConfig, size: tuple[int, int], max_seconds: float, device: torch.device
) -> bool:
    """Train for at most `max_seconds`, from where `state` left off; returns whether all steps are done.

    Without a state it begins with the model's network, in closed form if that is untrained.
    """
    torch.set_num_threads(1)
    end = time.monotonic() + max_seconds
    autoencoder = linear_code(model)
    autoencoder.refiner = None  # it was trained on what another decoder paints
    autoencoder.to(device)  # pyright: ignore[reportArgumentType] - the library's own annotation lacks devices
    print(f"before: {_figures(autoencoder, size)}", flush=True)
    training = DecoderTraining(autoencoder, config, Chunks.make(config.num_clips, size, autoencoder.stride))
    if state.exists():
        training.resume(state)
    elif training.is_untrained:
        training.solve()
        training.save(state)
        print(f"closed form: {_figures(autoencoder, size)}", flush=True)
    return train_until(training, state, config.max_steps, end, 200, lambda: _figures(autoencoder, size))


@torch.no_grad()
def psnr(model: LinearAutoencoder, num_clips: int, size: tuple[int, int]) -> tuple[float, float]:
    """Peak signal to noise of whole chunks of held-out clips in decibels: of all pixels, and of subjects alone."""
    everywhere, subjects = [], []
    for seed in range(HELDOUT_SEED, HELDOUT_SEED + num_clips):
        footage = render([mixed_record(seed)], [0], CHUNK_FRAMES, *size)
        frames = unit_pixels(footage.frames[0]).to(model.device)
        error = ((model.decode(model.encode(frames).latent_dist.mode()).sample - frames) / 2).square().mean(1)
        everywhere.append(-10 * math.log10(float(error.mean())))
        mask = footage.mask.to(model.device)
        subjects.append(-10 * math.log10(float((error * mask).sum() / mask.sum().clamp(min=1))))
    return sum(everywhere) / num_clips, sum(subjects) / num_clips


def _figures(model: LinearAutoencoder, size: tuple[int, int]) -> str:
    everywhere, subjects = psnr(model, 12, size)
    return f"{everywhere:.2f} dB, subjects {subjects:.2f} dB"
