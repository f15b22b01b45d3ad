"""The run of a call: chunk after chunk through the sampler, with a callback that may look at, change or stop it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from heliograph.diffusers.plan import Plan
from heliograph.errors import UserError
from heliograph.flow.pyramid import enlarge
from heliograph.flow.schedule import Step
from heliograph.memory import History
from heliograph.model.denoiser import ChunkContext, Condition, Prompt, TransformerDenoiser
from heliograph.sample import Branches, Sampler, denoise_chunk
from heliograph.seeds import GeneratorSeeds

Side = Literal["prompt", "negative_prompt"]

SIDES: tuple[Side, ...] = ("prompt", "negative_prompt")

Callback = Callable[[Any, int, Tensor, dict[str, Any]], dict[str, Any] | None]
"""Called after each step with (pipeline, step of the level, timestep, tensors by name); may return new tensors."""


@runtime_checkable
class Watched(Protocol):
    """What a callback reads and changes on the pipeline while it runs."""

    _num_timesteps: int
    _current_timestep: Any
    _interrupt: bool

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether guidance is on; a callback may switch it off."""
        ...

    @property
    def progress_bar(self) -> Any:
        """Makes a bar over `total` steps."""
        ...


@dataclass(frozen=True)
class Branch:
    """What the denoiser is told: which side of guidance, over which history. The words are looked up at each step."""

    side: Side
    context: ChunkContext


@dataclass
class SteeredDenoiser:
    """The transformer under embeddings that may change between two steps.

    When guidance is switched off in the middle of a chunk, the negative side answers what the prompt's side just did:
    then u + w·(c − u) is c, and the network is not asked twice.
    """

    denoiser: TransformerDenoiser
    pipeline: Watched
    prompts: dict[Side, Prompt]
    _conditional: Tensor | None = field(default=None, init=False)

    @property
    def is_guided(self) -> bool:
        """Whether the negative side counts."""
        return self.pipeline.do_classifier_free_guidance and "negative_prompt" in self.prompts

    def set_prompt(self, side: Side, embedding: Float[Tensor, "b l d"]) -> None:
        """Go on under another embedding."""
        self.prompts[side] = self.denoiser.prompt(embedding)

    def embeddings(self) -> dict[str, Tensor]:
        """The embeddings in use, under the names that callbacks know."""
        return {f"{side}_embeds": prompt.embedding for side, prompt in self.prompts.items()}

    def branches(self, history: History, chunk_latents: int) -> Branches:
        """Both sides over this history."""
        context = self.denoiser.context(history.tiers(chunk_latents))
        return Branches(Branch("prompt", context), Branch("negative_prompt", context) if self.is_guided else None)

    def __call__(self, x: Tensor, timestep: float, condition: Branch) -> Tensor:
        """Velocity on one side, float32."""
        if condition.side == "negative_prompt" and not self.is_guided:
            assert self._conditional is not None, "the prompt's side comes first"
            return self._conditional
        name = "cond" if condition.side == "prompt" else "uncond"
        with self.denoiser.transformer.cache_context(name):
            velocity = self.denoiser(x, timestep, Condition(self.prompts[condition.side], condition.context))
        if condition.side == "prompt":
            self._conditional = velocity
        return velocity


@dataclass(frozen=True)
class Generation:
    """One call under way. `first_noise` is what the first chunk is made from, where the caller gave it."""

    pipeline: Watched
    denoiser: SteeredDenoiser
    plan: Plan
    seeds: GeneratorSeeds
    first_noise: Float[Tensor, "b c t h w"] | None
    callback: Callback | None
    callback_inputs: tuple[str, ...]

    def chunks(self, history: History) -> Iterator[Float[Tensor, "b c t h w"]]:
        """The latents of chunk after chunk, float32.

        When a callback interrupts, the chunk under way is the last and stays as it is, enlarged to full size if the
        pyramid has not got there yet.
        """
        for index in range(self.plan.num_chunks):
            latents = self._chunk(history, index)
            yield latents
            if self.pipeline._interrupt:
                return
            history = history.push(latents)
            if self.plan.skips_first_chunk and index == 1:
                history = history.with_anchor(latents[:, :, :1])

    def _chunk(self, history: History, index: int) -> Float[Tensor, "b c t h w"]:
        """The chunk that follows `history`."""
        b, c, _, height, width = history.latents.shape
        given = self.first_noise if index == 0 else None
        noise = self.seeds.noise((b, c, self.plan.chunk_latents, height, width)) if given is None else given
        sampler = self.plan.sampler_for(index, height, width, is_guided=self.denoiser.is_guided)
        branches = self.denoiser.branches(history, self.plan.chunk_latents)
        states = denoise_chunk(self.denoiser, noise, branches, sampler, self.seeds.for_chunk(index))
        latents, answer = noise, None
        with self.pipeline.progress_bar(total=sampler.pyramid.num_calls) as bar:
            for step in self._steps(sampler):
                latents = states.send(answer)
                answer = self._after_step(step, latents)
                latents = latents if answer is None else answer
                bar.update()
                if self.pipeline._interrupt:
                    break
        while latents.shape[-1] < width:
            latents = enlarge(latents)
        return latents

    def _steps(self, sampler: Sampler) -> Iterator[Step]:
        """Every step of a chunk, told to the pipeline before it is taken."""
        for level in sampler.pyramid.levels:
            self.pipeline._num_timesteps = len(level.steps)
            for step in level.steps:
                self.pipeline._current_timestep = torch.tensor(step.timestep, dtype=torch.float64)
                yield step

    def _after_step(self, step: Step, latents: Tensor) -> Tensor | None:
        """Let the callback see the step and change what it was shown; the latents to go on from, if it gave others.

        Raises:
            UserError: the latents it gave have another shape.
        """
        if self.callback is None:
            return None
        known = {"latents": latents, **self.denoiser.embeddings()}
        shown = {name: known.get(name) for name in self.callback_inputs}
        changed = self.callback(self.pipeline, step.index, self.pipeline._current_timestep, dict(shown)) or {}
        for side in SIDES:
            # What was shown may have been changed in place, so it is read anew even if it is the same tensor.
            embedding = changed.get(f"{side}_embeds", shown.get(f"{side}_embeds"))
            if embedding is not None:
                self.denoiser.set_prompt(side, embedding)
        given = changed.get("latents", latents)
        if given.shape != latents.shape:
            raise UserError(
                f"callback_on_step_end returned latents of shape {tuple(given.shape)}; this step has "
                f"{tuple(latents.shape)}"
            )
        return None if given is latents else given.to(latents)
