"""What a client asked for, complete, as a value that can be stored and read back.

Imports no torch.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from heliograph.config import Guidance, SamplerConfig, ScheduleConfig
from heliograph.errors import StateError, UserError
from heliograph.shapes import LATENT_STRIDE, check_size
from heliograph.timeline import Cue, PromptTimeline


@dataclass(frozen=True)
class Request:
    """One video: its prompts, its size in pixels, its seed and how it is sampled.

    `matches_chunks` leads each chunk in from the end of the one before; it changes what is shown,
    not what the model remembers. `stride` is the model's pixels per latent cell.
    """

    timeline: PromptTimeline
    negative_prompt: str
    height: int
    width: int
    seed: int
    sampler: SamplerConfig
    matches_chunks: bool = False
    stride: int = LATENT_STRIDE

    def __post_init__(self) -> None:
        check_size(self.height, self.width, self.sampler.schedule.num_levels, self.stride)

    def with_prompt(self, chunk: int, prompt: str, transition_chunks: int) -> "Request":
        """The same request with another prompt from `chunk` on, blended over `transition_chunks` chunks."""
        return replace(self, timeline=self.timeline.with_prompt(chunk, prompt, transition_chunks))

    def as_json(self) -> dict[str, Any]:
        """Plain lists, numbers and strings."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Request":
        """The request that `as_json` wrote.

        Raises:
            StateError: a value is missing, of the wrong type or out of range.
        """
        try:
            sampler = values["sampler"]
            schedule = {**sampler["schedule"], "borders": tuple(sampler["schedule"]["borders"])}
            first = sampler["first_chunk_steps"]
            return cls(
                timeline=PromptTimeline(tuple(Cue(**cue) for cue in values["timeline"]["cues"])),
                negative_prompt=str(values["negative_prompt"]),
                height=int(values["height"]),
                width=int(values["width"]),
                seed=int(values["seed"]),
                sampler=SamplerConfig(
                    schedule=ScheduleConfig(**schedule),
                    steps=tuple(sampler["steps"]),
                    first_chunk_steps=tuple(first) if first else None,
                    guidance=Guidance(**sampler["guidance"]),
                    block_noise=sampler["block_noise"],
                ),
                # Not in requests that were stored before they were there.
                matches_chunks=bool(values.get("matches_chunks", False)),
                stride=int(values.get("stride", LATENT_STRIDE)),
            )
        except (KeyError, TypeError, ValueError) as error:
            reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            raise StateError(
                f"the stored request cannot be read ({reason}); it is damaged or of another version"
            ) from error


def chosen_sampler(
    preset: SamplerConfig,
    steps: tuple[int, ...] | None = None,
    first_chunk_steps: tuple[int, ...] | None = None,
    guidance_scale: float | None = None,
    guided_levels: int | None = None,
) -> SamplerConfig:
    """The model's own sampler with what the user chose instead.

    A model whose preset boosts the first chunk keeps doing so: the chosen steps are doubled there, unless
    `first_chunk_steps` says otherwise.
    """
    sampler = preset
    if steps is not None:
        boosted = tuple(2 * n for n in steps) if preset.first_chunk_steps else None
        sampler = replace(sampler, steps=steps, first_chunk_steps=boosted)
    if first_chunk_steps is not None:
        sampler = replace(sampler, first_chunk_steps=first_chunk_steps)
    if guidance_scale is not None:
        sampler = replace(sampler, guidance=replace(sampler.guidance, scale=guidance_scale))
    if guided_levels is not None:
        sampler = replace(sampler, guidance=replace(sampler.guidance, levels=guided_levels))
    return sampler
