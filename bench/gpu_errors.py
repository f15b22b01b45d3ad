"""How far ours, theirs and the approximations are from float32: one forward on each level, and a decode."""

from copy import deepcopy
from typing import Any

import torch
from gpu_state import Bench, twin
from torch import Tensor

from heliograph.bench.report import machine_facts
from heliograph.bench.subject import SHAPES, RandomTexts, random_transformer, whole_plan
from heliograph.bench.theirs import their_transformer
from heliograph.config import EXACT, MemoryConfig, SpeedConfig
from heliograph.engine.tuning import approximate, tune, tuned_denoiser
from heliograph.memory import History, Tier, Tiers
from heliograph.model.denoiser import Condition, TransformerDenoiser
from heliograph.model.transformer import HeliosTransformer3DModel

ERROR_BLOCKS = 4
"""Blocks of the network that is compared with float32: the width and the lengths are those of the shape."""


@torch.no_grad()
def errors(bench: Bench) -> None:
    """How far ours and theirs, both in bfloat16, are from float32 in one forward on each level; and decodes."""
    device, shape = bench.device, SHAPES[bench.shape]
    network = random_transformer({**shape.transformer, "num_layers": ERROR_BLOCKS}, device, torch.bfloat16)
    plan = whole_plan(network, device, torch.bfloat16)
    tune(network, plan, EXACT)
    theirs = their_transformer(network, device)
    wide = deepcopy(theirs).float()
    rounded = twin(network)
    approximate(rounded, plan, SpeedConfig(fp8=True))
    ways = {
        "eager": TransformerDenoiser(network, device),
        "default runner": tuned_denoiser(network, plan, EXACT),
        "fp8": TransformerDenoiser(rounded, device),
    }
    tiers, text, (height, width) = *_inputs(bench, network), (side // 8 for side in shape.size)
    conditions = {name: Condition(way.prompt(text), way.context(tiers)) for name, way in ways.items()}
    rows = []
    for level in range(3):
        size, timestep = (1, 16, 9, height >> (2 - level), width >> (2 - level)), 900.0 - 300 * level
        x = torch.randn(size, generator=torch.Generator().manual_seed(level)).to(device)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            want = _called(wide, x, timestep, text, tiers, torch.float32)
        got = {name: way(x, timestep, conditions[name]) for name, way in ways.items()}
        again = ways["default runner"](x, timestep, conditions["default runner"])
        got["diffusers"] = _called(theirs, x, timestep, text, tiers, torch.bfloat16)
        row: dict[str, Any] = {name: _error(each, want) for name, each in got.items()}
        row["runner_equals_eager"] = torch.equal(got["default runner"], got["eager"])
        row["replay_equals_first_call"] = torch.equal(again, got["default runner"])
        row["is_no_worse_than_diffusers"] = row["default runner"] <= row["diffusers"]
        rows.append({"timestep": timestep, "size": size, **row})
        bench.say(f"errors level {level}: " + ", ".join(f"{k} {v:.3g}" for k, v in row.items()))
    values: dict[str, Any] = {**machine_facts(device), "blocks": ERROR_BLOCKS, "relative_errors": rows}
    bench.write("errors", values)
    values["decode"] = _decode_error(bench)
    bench.write("errors", values)
    bench.say(f"errors decode: {values['decode']}")


def _inputs(bench: Bench, network: HeliosTransformer3DModel) -> tuple[Tiers, Tensor]:
    """A full history of random latents and a text of full length."""
    height, width = (side // 8 for side in SHAPES[bench.shape].size)
    generator = torch.Generator().manual_seed(7)
    latents, anchor = (torch.randn(1, 16, count, height, width, generator=generator) for count in (19, 1))
    history = History(latents.to(bench.device), anchor.to(bench.device), 3, MemoryConfig())
    texts = RandomTexts(network.config["text_dim"], torch.bfloat16, bench.device)
    return history.tiers(9), texts.encode([""]).embedding


def _called(network: Any, x: Tensor, timestep: float, text: Tensor, tiers: Tiers, dtype: torch.dtype) -> Tensor:
    """Their network's velocity for inputs that were rounded to bfloat16 once, as ours are."""

    def brought(latents: Tensor) -> Tensor:
        return latents.bfloat16().to(dtype)

    def named(name: str, tier: Tier) -> dict[str, Tensor]:
        frames = torch.tensor([tier.frames], device=x.device)
        return {f"indices_latents_history_{name}": frames, f"latents_history_{name}": brought(tier.latents)}

    return network(
        hidden_states=brought(x),
        timestep=torch.tensor([int(timestep)], device=x.device),
        encoder_hidden_states=text.to(dtype),
        indices_hidden_states=torch.tensor([tiers.chunk_frames], device=x.device),
        **named("short", tiers.short),
        **named("mid", tiers.mid),
        **named("long", tiers.long),
        return_dict=False,
    )[0].float()


def _error(got: Tensor, want: Tensor) -> float:
    """Root mean square of the difference over that of what is wanted."""
    return float((got - want).square().mean().sqrt() / want.square().mean().sqrt())


def _decode_error(bench: Bench) -> dict[str, Any]:
    """Of the decoder that runs by itself, and of the library's in the precision that it runs in, against float32."""
    codec, (height, width) = bench.exact.engine.codec, SHAPES[bench.shape].size
    # A cell narrower than what is timed: PyTorch keeps cuDNN's plan of a size as it was first found, and the library's
    # decode, which is timed with a search for the fastest, would go on with the one that was found here without.
    cells = height // 8, width // 8 - 1
    z = torch.randn(1, 16, 9, *cells, generator=torch.Generator().manual_seed(1)).to(bench.device)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        want = codec.autoencoder.decode(z).sample
    got = {"library": codec.autoencoder.decode(z).sample}
    if codec.decoder is not None:
        got[type(codec.decoder).__name__] = codec.decoder.decode(z).float()
    return {
        name: {"relative_error": _error(frames, want), "is_finite": bool(frames.isfinite().all())}
        for name, frames in got.items()
    }
