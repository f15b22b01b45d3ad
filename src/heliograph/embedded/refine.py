"""Training of the pixel refiner: from what cells paint of latents as the model makes them, to the true pixels.

A decoder that has only seen the latents of true pictures shows every error of the sampler as blocks and speckles. So
true chunks are noised to where one of the two finest pyramid levels begins, and the model goes on from there: what it
makes lies close to the truth, and errs as the model errs.
"""

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float, UInt8
from torch import Tensor

from heliograph.cell_decoder import channels_last
from heliograph.config import MemoryConfig
from heliograph.data.diorama.render import render
from heliograph.data.loader import Drawing
from heliograph.data.selection import Selection
from heliograph.data.world import cell_share, unit_pixels
from heliograph.data.world_examples import WorldCacheSource
from heliograph.embedded.render import MIX
from heliograph.embedded.small_training import store, train_until
from heliograph.engine.engine import Engine
from heliograph.errors import UserError
from heliograph.flow.pyramid import BLOCK, build_pyramid, jump
from heliograph.flow.schedule import level_ranges
from heliograph.flow.solvers import make_solver
from heliograph.linear_autoencoder import LinearAutoencoder
from heliograph.memory import History
from heliograph.model.denoiser import Condition
from heliograph.pipeline import HeliosPipeline
from heliograph.seeds import RequestSeeds
from heliograph.shapes import CHUNK_FRAMES, CHUNK_LATENTS, FRAME_STRIDE
from heliograph.train.loop import cosine_rate
from heliograph.train.multiscale import level_lines

Groups = Float[Tensor, "g values H W"]
"""The four frames of some latent frames, with their colours as channels."""


@dataclass(frozen=True)
class RefineConfig:
    """How the refiner is trained.

    A share of `true_share` of the examples are true latents with noise of up to `noise`; so are those that the model
    made something else of, further from the truth than `largest_error` (root mean square, normalised latents). Of
    `batch_size` chunks, `num_groups` latent frames are looked at in a step. `edge_weight` is the weight of the error's
    differences between neighbours, `subject_weight` that of cells which show a subject.
    """

    max_steps: int
    num_chunks: int = 900
    batch_size: int = 6
    num_groups: int = 18
    learning_rate: float = 6e-4
    warmup_steps: int = 50
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 1e-4
    max_grad_norm: float = 0.3
    true_share: float = 0.25
    noise: float = 0.15
    largest_error: float = 0.42
    edge_weight: float = 0.5
    subject_weight: float = 4.0
    seed: int = 0

    def rate_at(self, step: int) -> float:
        """Learning rate at `step`."""
        return self.learning_rate * cosine_rate(step, self.warmup_steps, self.max_steps)


@dataclass(frozen=True)
class Examples:
    """Chunks of many clips: their frames, how much of each cell shows a subject, and their normalised latents, once as
    they are and once as the model makes them.
    """

    frames: UInt8[Tensor, "n f 3 H W"]
    shares: Float[Tensor, "n t h w"]
    true: Float[Tensor, "n c t h w"]
    made: Float[Tensor, "n c t h w"]

    @classmethod
    def make(cls, engine: Engine, source: WorldCacheSource, config: RefineConfig) -> "Examples":
        """A chunk of each of the first clips of `source`, with the history and a caption of it.

        Raises:
            UserError: there are fewer clips.
        """
        if config.num_chunks > source.info.num_clips:
            raise UserError(
                f"the cache has {source.info.num_clips} clips, and chunks of {config.num_chunks} were asked for; "
                "make a larger cache, or use --chunks"
            )
        draw, seeds = random.Random(config.seed), RequestSeeds(config.seed)
        frames, shares, true, made = [], [], [], []
        for clip in range(config.num_chunks):
            chunk, record = draw.randrange(source.info.num_chunks), source.world.record(clip)
            first = source.info.first_frame(clip) + CHUNK_FRAMES * chunk
            footage = render([record], [first], CHUNK_FRAMES, *engine.size)
            latents = engine.codec.encode_chunk(unit_pixels(footage.frames[0]))
            history, _, anchor, _ = source.example(clip, chunk)
            past = History(history[None], anchor[None] if chunk else None, chunk, engine.memory)
            caption = source.world.caption(record, draw.randrange(2**20))
            own = finished(engine, latents, past, caption, seeds.generator(f"refiner/{clip}"), draw.choice((1, 2)))
            is_other = float((own - latents).square().mean().sqrt()) > config.largest_error
            frames.append(footage.frames)
            shares.append(cell_share(footage.mask[0], engine.codec.stride))
            true.append(latents)
            made.append(latents if is_other else own)
        return cls(torch.cat(frames), torch.stack(shares), torch.cat(true), torch.cat(made))


@torch.no_grad()
def finished(
    engine: Engine,
    latents: Float[Tensor, "1 c t h w"],
    history: History,
    caption: str,
    generator: torch.Generator,
    num_levels: int,
) -> Float[Tensor, "1 c t h w"]:
    """What the model makes of a true chunk that stands at the start of its last `num_levels` pyramid levels."""
    schedule, denoiser = engine.sampler.schedule, engine.denoiser
    pyramid = build_pyramid(schedule, engine.sampler.steps, *latents.shape[-2:])
    solver = make_solver(schedule.solver)
    prompt = denoiser.prompt(engine.texts.of(caption).embedding)
    condition = Condition(prompt, denoiser.context(history.tiers(CHUNK_LATENTS)))
    levels = pyramid.levels[-num_levels:]
    lines = level_lines(latents, torch.randn(latents.shape, generator=generator), level_ranges(schedule))
    x = lines[levels[0].index].start
    for level in levels:
        if level is not levels[0] and level.jump is not None:
            x = jump(x, torch.randn(*x.shape, BLOCK, generator=generator), level.jump, pyramid.gamma)
        state = solver.start(x)
        for step in level.steps:
            x, state = solver.step(state, x, denoiser(x, step.timestep, condition), step)
    return x


class RefinerTraining:
    """A refiner on its way: weights, moments and the number of the step, from which everything random follows."""

    def __init__(self, model: LinearAutoencoder, config: RefineConfig, examples: Examples) -> None:
        assert model.refiner is not None, "this autoencoder has no refiner to train"
        self.model, self.config, self.examples, self.step = model, config, examples, 0
        self.refiner = channels_last(model.refiner)
        self.optimiser = torch.optim.AdamW(
            self.refiner.parameters(), config.learning_rate, config.betas, weight_decay=config.weight_decay
        )
        self._std = rearrange(torch.tensor(model.config["latents_std"]), "c -> 1 c 1 1 1")

    def take_step(self) -> float:
        """One update; returns the loss: the weighted mean of |e| and of its differences between neighbours."""
        painted, cells, wanted, weight = self.draw(self.generator())
        with torch.autocast("cpu", torch.bfloat16):
            refined = self.refiner.refine(painted, cells)
        loss = self._loss(refined.float() - wanted, weight)
        self._update(loss)
        self.step += 1
        return float(loss.detach())

    def generator(self) -> torch.Generator:
        """What all randomness of this step comes from."""
        return torch.Generator().manual_seed(self.config.seed * 2**32 + self.step)

    def draw(
        self, generator: torch.Generator
    ) -> tuple[Groups, Float[Tensor, "g c3 h w"], Groups, Float[Tensor, "g 1 H W"]]:
        """Some latent frames: what was painted of each, what lies around its cells, the truth, the pixels' weights."""
        rows = torch.randint(len(self.examples.frames), (self.config.batch_size,), generator=generator)
        painted, cells = self._painted(self._latents(rows, generator))
        picked = self.pick(self.examples.shares[rows].amax(dim=(2, 3)).flatten(), generator)
        wanted, weight = (each[picked] for each in self._wanted(rows))
        return painted[picked], cells[picked], wanted, weight

    def pick(self, shares: Float[Tensor, " g"], generator: torch.Generator) -> Tensor:
        """Which latent frames are looked at, given how much of some cell of each shows a subject: any of them."""
        return torch.randperm(len(shares), generator=generator)[: self.config.num_groups]

    def rate(self) -> float:
        """Learning rate in this step."""
        return self.config.rate_at(self.step)

    def save(self, file: Path) -> None:
        """Store everything to go on from."""
        store(file, {"step": self.step, "refiner": self.refiner.state_dict(), "optimiser": self.optimiser.state_dict()})

    def resume(self, file: Path) -> None:
        """Go on from what `save` stored."""
        state = torch.load(file, weights_only=True)
        self.step = state["step"]
        self.refiner.load_state_dict(state["refiner"])
        self.optimiser.load_state_dict(state["optimiser"])

    def _update(self, loss: Float[Tensor, ""]) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.refiner.parameters(), self.config.max_grad_norm)
        self.optimiser.param_groups[0]["lr"] = self.rate()
        self.optimiser.step()

    def _latents(self, rows: Tensor, generator: torch.Generator) -> Float[Tensor, "b c t h w"]:
        """Normalised latents of some chunks, as the model makes them or true ones with a little noise."""
        true, made = self.examples.true[rows], self.examples.made[rows]
        shape = (len(rows), 1, 1, 1, 1)
        noise = self.config.noise * torch.rand(shape, generator=generator)
        noisy = true + noise * torch.randn(true.shape, generator=generator)
        is_true = torch.rand(shape, generator=generator) < self.config.true_share
        return torch.where(is_true | (made == true).all(dim=(1, 2, 3, 4), keepdim=True), noisy, made)

    @torch.no_grad()
    def _painted(self, latents: Float[Tensor, "b c t h w"]) -> tuple[Groups, Float[Tensor, "g c3 h w"]]:
        """What cells paint of normalised latents, and what lies around each of them."""
        assert self.model.decoder is not None
        return _groups(self.model.painted(latents * self._std)), self.model.decoder.around(latents)

    def _wanted(self, rows: Tensor) -> tuple[Groups, Float[Tensor, "g 1 H W"]]:
        """The true frames, the first of a chunk four times, and the weight of every pixel."""
        frames = torch.cat([unit_pixels(self.examples.frames[row]) for row in rows.tolist()])
        lead = repeat(frames[:, :, :1], "b c 1 h w -> b c r h w", r=FRAME_STRIDE - 1)
        weight = 1 + (self.config.subject_weight - 1) * self.examples.shares[rows]
        stride = self.model.stride
        pixels = repeat(weight, "b t h w -> (b t) 1 (h y) (w x)", y=stride, x=stride)
        return _groups(torch.cat([lead, frames], dim=2)), pixels

    def _loss(self, error: Groups, weight: Float[Tensor, "g 1 H W"]) -> Float[Tensor, ""]:
        across, down = error.diff(dim=-1).abs(), error.diff(dim=-2).abs()
        edges = (weight[..., 1:] * across).mean() + (weight[..., 1:, :] * down).mean()
        return ((weight * error.abs()).mean() + self.config.edge_weight * edges) / weight.mean()


def train_refiner(
    model: str, source: WorldCacheSource, state: Path, config: RefineConfig, refiner_dim: int, max_seconds: float
) -> bool:
    """Train for at most `max_seconds`, from where `state` left off; returns whether all steps are done.

    Without a state it begins with the model's own refiner, or with a new one of width `refiner_dim` if there is none.
    """
    torch.set_num_threads(1)
    end = time.monotonic() + max_seconds
    engine = HeliosPipeline.from_pretrained(model, device="cpu", dtype="float32").engine
    autoencoder = engine.codec.autoencoder
    assert isinstance(autoencoder, LinearAutoencoder)
    if autoencoder.refiner is None:
        autoencoder = with_refiner(autoencoder, refiner_dim)
    training = RefinerTraining(autoencoder, config, Examples.make(engine, source, config))
    if state.exists():
        training.resume(state)
    return train_until(training, state, config.max_steps, end, 100, lambda: _figures(training))


def cached_clips(folder: Path) -> WorldCacheSource:
    """The clips of a cache of the mix."""
    drawing = Drawing(batch_size=1, memory_frames=MemoryConfig().num_frames)
    return WorldCacheSource(folder, MIX, drawing, Selection(), text=None)


def with_refiner(autoencoder: object, dim: int) -> LinearAutoencoder:
    """The same autoencoder with an untrained refiner of width `dim` in the place of any other."""
    assert isinstance(autoencoder, LinearAutoencoder)
    config: dict[str, Any] = {name: value for name, value in autoencoder.config.items() if not name.startswith("_")}
    config["refiner_dim"] = dim
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        other = LinearAutoencoder(**config)
    weights = {name: value for name, value in autoencoder.state_dict().items() if not name.startswith("refiner.")}
    missing, _ = other.load_state_dict(weights, strict=False)
    assert all(name.startswith("refiner.") for name in missing), missing
    return other.eval()


@torch.no_grad()
def refined_psnr(training: RefinerTraining, rows: Sequence[int]) -> tuple[float, float]:
    """Decibels of the frames that the decoder shows of some latents that the model made: unrefined, and refined."""
    painted, cells = training._painted(training.examples.made[list(rows)])
    wanted, _ = training._wanted(torch.tensor(list(rows)))
    errors = [F.mse_loss(x.clamp(-1, 1), wanted) / 4 for x in (painted, training.refiner.refine(painted, cells))]
    before, after = (-10 * math.log10(float(error)) for error in errors)
    return before, after


def _figures(training: RefinerTraining) -> str:
    before, after = refined_psnr(training, range(min(12, len(training.examples.frames))))
    return f"{before:.2f} dB unrefined, {after:.2f} refined (of its own examples)"


def _groups(frames: Float[Tensor, "b 3 f H W"]) -> Groups:
    return rearrange(frames, "b c (t s) h w -> (b t) (s c) h w", s=FRAME_STRIDE)
