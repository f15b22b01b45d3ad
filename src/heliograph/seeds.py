"""Randomness, always handed in: which numbers are drawn for which purpose.

Two orders exist. `RequestSeeds` gives every purpose of every chunk a generator of its own, so a chunk can be made
again from its history alone, and the numbers do not depend on the device. `GeneratorSeeds` draws everything from one
`torch.Generator`, in the order of the diffusers pipelines, for the same video as theirs.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float
from torch import Tensor

from heliograph.config import BlockNoiseSource
from heliograph.errors import UserError
from heliograph.transfer import to_device

Shape = tuple[int, ...]
Generators = torch.Generator | list[torch.Generator] | None

DEFAULT_SEED = 67280421310721
"""Seed of a `torch.Generator` that nobody seeded; the released engine draws all block noise from it."""

MAX_SEED = 2**63 - 1


@runtime_checkable
class ChunkSeeds(Protocol):
    """The random numbers of one chunk, in the order they are asked for; all float32."""

    def noise(self, shape: Shape) -> Float[Tensor, "..."]:
        """Standard normal noise that the chunk is made from."""
        ...

    def block(self, level: int, shape: Shape) -> Float[Tensor, "..."]:
        """Standard normal numbers for the block noise of the jump to `level`."""
        ...


@runtime_checkable
class RolloutSeeds(Protocol):
    """The random numbers of what is made chunk by chunk from text."""

    def for_chunk(self, chunk: int) -> ChunkSeeds:
        """Those of the chunk with this index."""
        ...


@runtime_checkable
class Seeds(RolloutSeeds, Protocol):
    """The random numbers of one video."""

    def generator(self, purpose: str) -> Generators:
        """A generator for a library that draws by itself (the posterior of the autoencoder)."""
        ...

    def normal(self, purpose: str, shape: Shape) -> Float[Tensor, "..."]:
        """Standard normal numbers for one purpose at the start of the video."""
        ...

    def uniform(self, purpose: str, count: int) -> Float[Tensor, " count"]:
        """Numbers in [0, 1) for one purpose at the start of the video."""
        ...


def check_seed(seed: int) -> None:
    """Refuse a seed that a generator cannot take."""
    if not 0 <= seed <= MAX_SEED:
        raise UserError(f"seed={seed} is out of range; use a whole number from 0 to {MAX_SEED}")


@dataclass(frozen=True)
class RequestSeeds:
    """Seeds that belong to (request, chunk, purpose). Numbers are drawn on the CPU and are the same on every device.

    `block_noise="fixed"` draws the block noise of every chunk from the default generator, as the released engine does.
    """

    seed: int
    device: torch.device | str = "cpu"
    block_noise: BlockNoiseSource = "request"

    def __post_init__(self) -> None:
        check_seed(self.seed)

    def for_chunk(self, chunk: int) -> "RequestChunkSeeds":
        """Those of the chunk with this index."""
        return RequestChunkSeeds(self, chunk)

    def generator(self, purpose: str) -> torch.Generator:
        """A CPU generator seeded by the request and the purpose."""
        text = f"heliograph/{self.seed}/{purpose}".encode()
        digest = hashlib.blake2b(text, digest_size=8).digest()
        return torch.Generator("cpu").manual_seed(int.from_bytes(digest, "little") >> 1)

    def generator_on(self, device: torch.device, purpose: str) -> torch.Generator:
        """The same on `device`, for training: there a host that draws keeps a GPU waiting.

        Its numbers are the same every time, but others than those of another kind of device.
        """
        return torch.Generator(device).manual_seed(self.generator(purpose).initial_seed())

    def normal(self, purpose: str, shape: Shape) -> Float[Tensor, "..."]:
        """Standard normal numbers for one purpose."""
        return to_device(torch.randn(shape, generator=self.generator(purpose)), self.device)

    def uniform(self, purpose: str, count: int) -> Float[Tensor, " count"]:
        """Numbers in [0, 1) for one purpose."""
        return torch.rand(count, generator=self.generator(purpose)).to(self.device)


@dataclass(frozen=True)
class RequestChunkSeeds:
    """The random numbers of one chunk of a request."""

    request: RequestSeeds
    chunk: int

    def noise(self, shape: Shape) -> Float[Tensor, "..."]:
        """Noise that the chunk is made from."""
        return self.request.normal(f"noise/{self.chunk}", shape)

    def block(self, level: int, shape: Shape) -> Float[Tensor, "..."]:
        """Numbers for the block noise of the jump to `level`."""
        if self.request.block_noise == "fixed":
            return fixed_block_numbers(shape, self.request.device)
        return self.request.normal(f"jump/{self.chunk}/{level}", shape)


@dataclass(frozen=True)
class SeedsOfMany:
    """The numbers of several videos at once: each row of a batch draws its own, as it would alone."""

    rows: Sequence[RolloutSeeds]

    def for_chunk(self, chunk: int) -> "ChunkSeedsOfMany":
        """Those of the chunk with this index."""
        return ChunkSeedsOfMany([row.for_chunk(chunk) for row in self.rows])


@dataclass(frozen=True)
class ChunkSeedsOfMany:
    """The numbers of one chunk of several videos, in the order of the batch."""

    rows: Sequence[ChunkSeeds]

    def noise(self, shape: Shape) -> Float[Tensor, "..."]:
        """Noise that the chunks are made from."""
        return torch.cat([row.noise((1, *shape[1:])) for row in self.rows])

    def block(self, level: int, shape: Shape) -> Float[Tensor, "..."]:
        """Numbers for the block noise of the jump to `level`."""
        return torch.cat([row.block(level, (1, *shape[1:])) for row in self.rows])


class GeneratorSeeds:
    """Everything from one generator (or one per batch row), in the order in which it is asked for.

    Block noise comes from the same generator (`"request"`, as in diffusers; with a list, from the first), or from the
    default generator (`"fixed"`, as in the released engine).
    """

    def __init__(
        self, generators: Generators, device: torch.device | str, block_noise: BlockNoiseSource = "request"
    ) -> None:
        self.generators = generators
        self.device = torch.device(device)
        self.block_noise = block_noise

    def for_chunk(self, chunk: int) -> "GeneratorSeeds":
        """The same generator: chunks follow one another in its stream."""
        return self

    def generator(self, purpose: str) -> Generators:
        """The generator itself."""
        return self.generators

    def normal(self, purpose: str, shape: Shape) -> Float[Tensor, "..."]:
        """The next standard normal numbers of the stream."""
        return randn_tensor(shape, generator=self.generators, device=self.device, dtype=torch.float32)

    def uniform(self, purpose: str, count: int) -> Float[Tensor, " count"]:
        """The next numbers in [0, 1) of the stream, drawn where the generator lives."""
        first = self._first()
        return torch.rand(count, generator=first, device=first.device if first else self.device).to(self.device)

    def noise(self, shape: Shape) -> Float[Tensor, "..."]:
        """Noise that the chunk is made from."""
        return self.normal("noise", shape)

    def block(self, level: int, shape: Shape) -> Float[Tensor, "..."]:
        """Numbers for the block noise of a jump."""
        first = self._first()
        if self.block_noise == "fixed" or first is None:
            return fixed_block_numbers(shape, self.device)
        return torch.randn(shape, generator=first, device=first.device).to(self.device)

    def _first(self) -> torch.Generator | None:
        return self.generators[0] if isinstance(self.generators, list) else self.generators


def fixed_block_numbers(shape: Shape, device: torch.device | str) -> Float[Tensor, "..."]:
    """The numbers that the released engine uses for every chunk, prompt and seed: a fresh, unseeded generator."""
    generator = torch.Generator(device).manual_seed(DEFAULT_SEED)
    return torch.randn(shape, generator=generator, device=device)
