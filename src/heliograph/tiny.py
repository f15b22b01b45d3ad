"""A complete Helios model with random weights, small enough to write in a second: what `tiny` means until weights are
trained for it, and what the tests run on.

The folder has the layout of the released checkpoints, so it loads here and in diffusers.
"""

import json
import shutil
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from safetensors.torch import save_file
from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

from heliograph.autoencoder import FastAutoencoder
from heliograph.errors import OutputError, UserError

Variant = Literal["base", "mid", "distilled"]

_WORDS = (
    "a the of and in on to over under left right up down slowly quickly fish bird boat balloon cat dog sea reef sky "
    "meadow desert mountains city street red orange yellow green blue purple pink white black small big day night "
    "sunset swims flies turns walks runs sails moves camera pans video bright static blurred worst low quality"
)
"""Words with a token of their own; all others are spelt."""


@dataclass(frozen=True)
class TinySizes:
    """Sizes of a tiny model. Latents have 16 channels and a cell is 8 × 8 pixels, as in the released models.

    `num_layers`, `num_heads`, `head_dim`, `rope_dim` (parts of a head for t, y and x, each even), `ffn_dim`: the
    transformer. `text_dim`, `num_text_layers`, `max_text_tokens`: the text encoder. `vae_dim`: channels of the
    autoencoder at full resolution, even.
    """

    num_layers: int = 2
    num_heads: int = 2
    head_dim: int = 24
    rope_dim: tuple[int, int, int] = (8, 8, 8)
    ffn_dim: int = 96
    text_dim: int = 32
    num_text_layers: int = 1
    max_text_tokens: int = 32
    vae_dim: int = 4

    def __post_init__(self) -> None:
        counts = (self.num_layers, self.num_heads, self.ffn_dim, self.num_text_layers, self.max_text_tokens)
        if min(*counts, self.text_dim, self.vae_dim) < 1 or self.text_dim % 2 or self.vae_dim % 2:
            raise UserError(f"{self} is no network; use positive sizes, text_dim and vae_dim even")
        if sum(self.rope_dim) != self.head_dim or any(part < 2 or part % 2 for part in self.rope_dim):
            raise UserError(
                f"rope_dim={self.rope_dim} does not divide head_dim={self.head_dim}; use three even parts of it"
            )


DEFAULT_SIZES = TinySizes()


def write_random_tiny(
    folder: Path, seed: int = 0, sizes: TinySizes = DEFAULT_SIZES, variant: Variant = "distilled"
) -> None:
    """Write a complete random model; the same arguments write the same bytes.

    Args:
        folder: made if it is not there; files of the same names are replaced.
        seed: of all weights.
        sizes: of the networks.
        variant: which released model's pipeline class, switches and scheduler it has.

    Raises:
        OutputError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Networks draw their first weights from torch's own generator, which is given back as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            _write_text_parts(folder, sizes)
            _write_transformer(folder / "transformer", sizes)
            _write_autoencoder(folder / "vae", sizes)
        _write_json(folder / "scheduler" / "scheduler_config.json", _scheduler_config(variant))
        _write_json(folder / "model_index.json", _model_index(variant))
    except OSError as error:
        raise OutputError(f"the model folder {folder} cannot be written ({error}); name another") from error


def write_random_fast(folder: Path, seed: int = 0, sizes: TinySizes = DEFAULT_SIZES) -> None:
    """Write a random model of the distilled variant with this package's own autoencoder, for 64×64 pixels.

    Twenty times faster to decode with than the Wan autoencoder; diffusers has no class for it.

    Raises:
        OutputError: the folder cannot be written.
    """
    write_random_tiny(folder, seed, sizes)
    shutil.rmtree(folder / "vae")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        FastAutoencoder(encoder_dim=8, decoder_dims=(24, 16, 8, 8), num_blocks=1).save_pretrained(folder / "vae")
    _write_json(folder / "model_index.json", _model_index("distilled") | {"vae": ["heliograph", "FastAutoencoder"]})
    _write_json(folder / "heliograph.json", {"height": 64, "width": 64})


def _write_text_parts(folder: Path, sizes: TinySizes) -> None:
    """A tokenizer and an encoder for its vocabulary; stored as the released one, its embedding only as `shared`."""
    tokenizer = T5Tokenizer(vocab=_vocabulary(), extra_ids=0, model_max_length=sizes.max_text_tokens)
    tokenizer.save_pretrained(folder / "tokenizer")
    config = UMT5Config(
        vocab_size=len(tokenizer),
        d_model=sizes.text_dim,
        d_kv=sizes.text_dim // 2,
        d_ff=2 * sizes.text_dim,
        num_layers=sizes.num_text_layers,
        num_heads=2,
        architectures=["UMT5EncoderModel"],
    )
    config.save_pretrained(folder / "text_encoder")
    weights = UMT5EncoderModel(config).state_dict()
    weights.pop("encoder.embed_tokens.weight")
    # Not `save_pretrained`: it shows a progress bar.
    save_file(weights, folder / "text_encoder" / "model.safetensors", metadata={"format": "pt"})


def _vocabulary() -> list[tuple[str, float]]:
    """Pieces of a unigram tokenizer and their log probabilities: a whole word beats its letters, ▁ begins a word.

    Pad, end of sequence and unknown have ids 0, 1 and 2, as in every T5 model.
    """
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    letters = [("▁", -6.0)] + [(chr(code), -8.0) for code in range(ord("!"), ord("~") + 1)]
    return special + letters + [(f"▁{word}", -4.0) for word in _WORDS.split()]


def _write_transformer(folder: Path, sizes: TinySizes) -> None:
    # Only here: the rest of the file needs no network of ours.
    from heliograph.model.transformer import HeliosTransformer3DModel  # noqa: PLC0415

    HeliosTransformer3DModel(
        num_attention_heads=sizes.num_heads,
        attention_head_dim=sizes.head_dim,
        text_dim=sizes.text_dim,
        ffn_dim=sizes.ffn_dim,
        num_layers=sizes.num_layers,
        rope_dim=sizes.rope_dim,
    ).save_pretrained(folder)


def _write_autoencoder(folder: Path, sizes: TinySizes) -> None:
    """The Wan autoencoder, narrower and with one residual block per resolution; its latent statistics are kept."""
    AutoencoderKLWan(base_dim=sizes.vae_dim, num_res_blocks=1).save_pretrained(folder)


def _model_index(variant: Variant) -> dict[str, object]:
    """Component table and switches of the released variant."""
    switches: dict[Variant, dict[str, object]] = {
        "base": {"_class_name": "HeliosPipeline"},
        "mid": {"_class_name": "HeliosPyramidPipeline", "is_cfg_zero_star": True, "is_distilled": False},
        "distilled": {"_class_name": "HeliosPyramidPipeline", "is_cfg_zero_star": False, "is_distilled": True},
    }
    return switches[variant] | {
        "_diffusers_version": metadata.version("diffusers"),
        "scheduler": ["diffusers", _scheduler_class(variant)],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "HeliosTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLWan"],
    }


def _scheduler_class(variant: Variant) -> str:
    return "HeliosDMDScheduler" if variant == "distilled" else "HeliosScheduler"


def _scheduler_config(variant: Variant) -> dict[str, object]:
    """Scheduler configuration of the released variant."""
    return {
        "_class_name": _scheduler_class(variant),
        "_diffusers_version": metadata.version("diffusers"),
        "scheduler_type": "dmd" if variant == "distilled" else "unipc",
        "stages": 1 if variant == "base" else 3,
        "stage_range": [0.0, 1.0] if variant == "base" else [0.0, 1 / 3, 2 / 3, 1.0],
        "gamma": 1 / 3,
        "num_train_timesteps": 1000,
        "shift": 1.0,
        "use_dynamic_shifting": True,
        "time_shift_type": "linear" if variant == "distilled" else "exponential",
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "solver_order": 2,
        "solver_type": "bh2",
        "predict_x0": True,
        "lower_order_final": True,
        "disable_corrector": [],
        "solver_p": None,
        "thresholding": False,
    }


def _write_json(file: Path, values: dict[str, object]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
