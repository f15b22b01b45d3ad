"""What a client ordered, complete, as a value that is stored with its video or session."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Start = Literal["text", "image", "video"]


@dataclass(frozen=True)
class Order:
    """One video or session, whatever its length.

    Attributes:
        prompt: what to show.
        negative_prompt: what to avoid; counts only with guidance.
        height: pixels.
        width: pixels.
        seed: the same order with the same seed gives the same frames.
        steps: sampling steps on each pyramid level; None for the model's own.
        guidance_scale: weight of the prompt; None for the model's own.
        motion: 0 keeps to the picture or clip given, 1 lets go of it; 0.5 is as the model was trained.
        start: what the first frames come from.
    """

    prompt: str
    height: int
    width: int
    seed: int
    negative_prompt: str = ""
    steps: tuple[int, ...] | None = None
    guidance_scale: float | None = None
    motion: float = 0.5
    start: Start = "text"

    @property
    def size(self) -> str:
        """Width and height as clients write them: `640x384`."""
        return f"{self.width}x{self.height}"

    def with_prompt(self, prompt: str) -> "Order":
        """The same with another prompt."""
        return replace(self, prompt=prompt)

    def as_json(self) -> dict[str, Any]:
        """Plain lists, numbers and strings."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Order":
        """The order that `as_json` wrote."""
        steps = values["steps"]
        return cls(**{**values, "steps": tuple(steps) if steps is not None else None})
