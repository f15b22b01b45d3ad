"""A loaded model, ready to start videos: its parts, how it is sampled, and the size it was trained at."""

import hashlib
import json
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from heliograph.checkpoint import (
    ModelFolder,
    digest_additions,
    native_memory,
    native_sampler,
    native_size,
    native_values,
    tensor_table,
)
from heliograph.config import EXACT, MemoryConfig, SamplerConfig, SpeedConfig
from heliograph.engine.decoders import choose_decoder
from heliograph.engine.machine import free_bytes
from heliograph.engine.pictures import Pictures
from heliograph.engine.plan import Plan
from heliograph.engine.prompts import TextEmbeddings
from heliograph.engine.tuning import device_for_vae, guidance_thread, tried, tuned_denoiser, tuned_transformer
from heliograph.model.denoiser import TransformerDenoiser
from heliograph.shapes import LARGE_PARAMETERS
from heliograph.text import load_text_encoder
from heliograph.vae import LatentCodec, load_autoencoder

_SAMPLED_BYTES = 4096
_SAMPLES = 16


@dataclass(frozen=True)
class Engine:
    """The parts of one model. Sessions share it; nothing in it belongs to a single video.

    `pairs_guidance` runs the two branches of guidance together: for a small model on a CPU, where a pass is many small
    calls on one thread, and of no use where one branch keeps the device busy. `num_threads` are those to run it
    on where it runs on the CPU. `matches_chunks`: chunks are led in unless a request says otherwise. `approximations`
    are what was given up for speed, in words.
    """

    denoiser: TransformerDenoiser
    texts: TextEmbeddings
    codec: LatentCodec
    sampler: SamplerConfig
    memory: MemoryConfig
    size: tuple[int, int]
    num_channels: int
    fingerprint: str
    device: torch.device
    pairs_guidance: bool = False
    num_threads: int | None = None
    matches_chunks: bool = False
    approximations: tuple[str, ...] = ()

    @property
    def pairs_branches(self) -> bool:
        """Whether branches of guidance are a batch of two. Where rows of the past are kept, each prompt has its own."""
        return self.pairs_guidance and self.denoiser.history_reuse == "off" and self.second_thread is None

    @cached_property
    def second_thread(self) -> Executor | None:
        """Makes one branch of guidance beside the other, where they run together and a core is left for it."""
        return guidance_thread(self.denoiser.transformer) if self.pairs_guidance else None

    @cached_property
    def pictures(self) -> Pictures:
        """From latents to frames on the host."""
        return Pictures(self.codec)


def load_engine(folder: ModelFolder, plan: Plan, prompts: tuple[str, ...] = (), speed: SpeedConfig = EXACT) -> Engine:
    """Load every part of a model folder, the way that the plan says.

    Args:
        folder: the model.
        plan: where its parts go; one of `engine.placement.plans_for`.
        prompts: where the text encoder cannot stay, these are encoded before the transformer is loaded.
        speed: how the machine is used, and what is approximated.

    Raises:
        CheckpointError: a part is missing, damaged, or not what its configuration says.
        UserError: what `speed` asks for is not there, or not possible in this way of running.
    """
    device = torch.device(plan.device)
    text_device = torch.device(plan.text_device)
    stays = plan.way in ("whole", "text encoder offloaded")
    texts = TextEmbeddings(lambda: load_text_encoder(folder, plan.dtype, text_device), stays=stays)
    texts.encode(prompts)
    speed = tried(speed, plan)
    transformer = tuned_transformer(folder, plan, speed)
    size = native_size(folder.path)
    # The autoencoder runs in float32, as the reference does: its latents are what all later chunks remember.
    autoencoder = load_autoencoder(folder, torch.float32, device_for_vae(speed.vae_device, device))
    codec = LatentCodec(autoencoder, choose_decoder(autoencoder, size, free_bytes, speed.decoder))
    return Engine(
        denoiser=tuned_denoiser(transformer, plan, speed),
        texts=texts,
        codec=codec,
        sampler=native_sampler(folder),
        memory=native_memory(folder.path),
        size=size,
        num_channels=int(folder.transformer_config.get("in_channels", 16)),
        fingerprint=fingerprint(folder),
        device=device,
        num_threads=plan.num_threads,
        matches_chunks=bool(native_values(folder.path).get("match_chunks", False)),
        pairs_guidance=transformer.lean is not None
        and sum(p.numel() for p in transformer.parameters()) < LARGE_PARAMETERS,
        approximations=speed.approximations,
    )


def fingerprint(folder: ModelFolder) -> str:
    """A digest that tells models apart: configurations, tensor tables, samples of the weights' bytes, and adapters.

    Reads 16 pieces of 4 KiB of each weight file, so it costs the same for a model of any size.
    """
    digest = hashlib.sha256()
    for values in (folder.transformer_config, folder.scheduler_config):
        digest.update(json.dumps(values, sort_keys=True, default=str).encode())
    for part in ("transformer", "text_encoder", "vae"):
        table = tensor_table(folder.part(part))
        digest.update(repr(sorted((name, info.shape, str(info.dtype)) for name, info in table.items())).encode())
        for file in sorted({info.file for info in table.values()}):
            _sample(file, digest)
    digest_additions(folder.additions, digest)
    return digest.hexdigest()


def _sample(file: Path, digest: "hashlib._Hash") -> None:
    size = file.stat().st_size
    with file.open("rb") as stream:
        for i in range(_SAMPLES):
            stream.seek((size - _SAMPLED_BYTES) * i // (_SAMPLES - 1) if size > _SAMPLED_BYTES else 0)
            digest.update(stream.read(_SAMPLED_BYTES))
