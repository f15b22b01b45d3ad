"""Training of the embedded model's decoder: the linear code stays as it is, a network learns what it lacks.

Short windows of fresh clips: three latent frames and the twelve frames of pixels they stand for. Latents get a little
noise, so that the decoder forgives the sampler's errors.
"""

import math
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from heliograph.data.diorama.render import render
from heliograph.data.world import unit_pixels
from heliograph.embedded.mix import mixed_record
from heliograph.embedded.render import open_codec
from heliograph.linear_autoencoder import LinearAutoencoder
from heliograph.media.target import write_whole
from heliograph.shapes import CHUNK_FRAMES, FRAME_STRIDE

WINDOW = 3
"""Latent frames of a training window."""

FIRST_SEED, HELDOUT_SEED = 2**41, 2**42
"""Seeds of training and of held-out clips."""


@dataclass(frozen=True)
class DecoderConfig:
    """How the decoder is trained; `noise` is the largest deviation that normalised latents are disturbed by."""

    max_steps: int
    batch_size: int = 4
    learning_rate: float = 1e-3
    warmup_steps: int = 40
    max_grad_norm: float = 0.3
    noise: float = 0.1
    subject_weight: float = 4.0
    seed: int = 0

    def rate_at(self, step: int) -> float:
        """Learning rate at `step`: a linear start, then half a cosine down to zero."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.max_steps - self.warmup_steps)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


class DecoderTraining:
    """A decoder on its way: weights, moments and the number of the step, from which everything random follows."""

    def __init__(self, model: LinearAutoencoder, config: DecoderConfig, size: tuple[int, int]) -> None:
        assert model.decoder is not None, "this autoencoder has no network to train"
        self.model, self.config, self.size = model, config, size
        self.decoder = model.decoder.train()
        self.optimiser = torch.optim.AdamW(self.decoder.parameters(), lr=config.learning_rate, betas=(0.9, 0.98))
        self.step = 0

    def take_step(self) -> float:
        """One update; returns the loss."""
        frames, mask = self._windows()
        loss = self._loss(frames, mask)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.decoder.parameters(), self.config.max_grad_norm)
        self.optimiser.param_groups[0]["lr"] = self.config.rate_at(self.step)
        self.optimiser.step()
        self.step += 1
        return float(loss.detach())

    def save(self, file: Path) -> None:
        """Store everything to go on from."""
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(".tmp")
        torch.save(
            {"step": self.step, "decoder": self.decoder.state_dict(), "optimiser": self.optimiser.state_dict()}, draft
        )
        write_whole(file, draft.read_bytes())
        draft.unlink()

    def resume(self, file: Path) -> None:
        """Go on from what `save` stored."""
        state = torch.load(file, weights_only=True)
        self.step = state["step"]
        self.decoder.load_state_dict(state["decoder"])
        self.optimiser.load_state_dict(state["optimiser"])

    def _windows(self) -> tuple[Float[Tensor, "b 3 f h w"], Float[Tensor, "b 1 f h w"]]:
        """Pixels in [-1, 1] and the subjects' masks; a third of the windows begins with a repeated first frame."""
        luck = random.Random(f"decoder {self.config.seed} {self.step}")
        frames, masks = [], []
        for _ in range(self.config.batch_size):
            record = mixed_record(FIRST_SEED + luck.randrange(2**30))
            is_start = luck.random() < 1 / 3
            lead = FRAME_STRIDE - 1 if is_start else 0
            footage = render([record], [luck.randrange(2400)], WINDOW * FRAME_STRIDE - lead, *self.size)
            pixels, mask = unit_pixels(footage.frames[0]), rearrange(footage.mask, "1 f h w -> 1 1 f h w")
            frames.append(_repeat_first(pixels, lead))
            masks.append(_repeat_first(mask, lead))
        return torch.cat(frames), torch.cat(masks)

    def _loss(self, frames: Float[Tensor, "b 3 f h w"], mask: Float[Tensor, "b 1 f h w"]) -> Float[Tensor, ""]:
        """|e| + 2·e² + ½·|∇e|, each pixel weighted."""
        model, config = self.model, self.config
        generator = torch.Generator().manual_seed(config.seed * 2**32 + self.step)
        with torch.no_grad():
            z = model.encode(frames).latent_dist.mode()
            scale = rearrange(torch.tensor(model.config["latents_std"]), "c -> 1 c 1 1 1")
            size = config.noise * torch.rand(z.shape[0], 1, 1, 1, 1, generator=generator)
            z = z + scale * size * torch.randn(z.shape, generator=generator)
        error = model.reconstruct(z) - frames
        weight = 1 + (config.subject_weight - 1) * mask
        slopes = error.diff(dim=3).abs().mean() + error.diff(dim=4).abs().mean()
        return (weight * (error.abs() + 2 * error.square())).mean() + 0.5 * slopes


def train_decoder(model: str, state: Path, config: DecoderConfig, size: tuple[int, int], max_seconds: float) -> bool:
    """Train for at most `max_seconds`, from where `state` left off; returns whether all steps are done."""
    torch.set_num_threads(1)
    autoencoder = open_codec(model).autoencoder
    assert isinstance(autoencoder, LinearAutoencoder)
    training = DecoderTraining(autoencoder, config, size)
    if state.exists():
        training.resume(state)
    end, losses = time.monotonic() + max_seconds, []
    while training.step < config.max_steps and time.monotonic() < end:
        losses.append(training.take_step())
        if training.step % 50 == 0:
            print(f"step {training.step}/{config.max_steps} · loss {sum(losses) / len(losses):.4f}", flush=True)
            losses.clear()
            training.save(state)
    training.save(state)
    return training.step >= config.max_steps


@torch.no_grad()
def psnr(model: LinearAutoencoder, num_clips: int, size: tuple[int, int]) -> tuple[float, float]:
    """Peak signal to noise of whole chunks of held-out clips in decibels: of all pixels, and of subjects alone."""
    everywhere, subjects = [], []
    for seed in range(HELDOUT_SEED, HELDOUT_SEED + num_clips):
        footage = render([mixed_record(seed)], [0], CHUNK_FRAMES, *size)
        frames = unit_pixels(footage.frames[0])
        error = ((model.decode(model.encode(frames).latent_dist.mode()).sample - frames) / 2).square().mean(1)
        everywhere.append(-10 * math.log10(float(error.mean())))
        subjects.append(-10 * math.log10(float((error * footage.mask).sum() / footage.mask.sum().clamp(min=1))))
    return sum(everywhere) / num_clips, sum(subjects) / num_clips


def _repeat_first(x: Float[Tensor, "b c f h w"], count: int) -> Float[Tensor, "b c f2 h w"]:
    return torch.cat([repeat(x[:, :, :1], "b c 1 h w -> b c r h w", r=count), x], dim=2)
