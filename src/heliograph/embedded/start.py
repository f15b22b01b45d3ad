"""The model folder that training of the embedded model starts from: code, words, and untrained networks."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import UMT5Config, UMT5EncoderModel

from heliograph.embedded.code import CODE_CLIPS, fit_code
from heliograph.embedded.words import make_tokenizer, save_tokenizer
from heliograph.tiny import TinySizes, write_random_tiny

HEIGHT = WIDTH = 128
"""Pixels of the embedded model's videos."""

STRIDE = 16
"""Pixels per latent cell: 8 × 8 cells, which a CPU samples quickly; the decoder paints the rest."""

TEXT_DIM, TEXT_LAYERS, TEXT_TOKENS = 128, 2, 32

DECODER_DIM = 384
"""Width of the decoder's network."""

REFINER_DIM = 96
"""Width of the network that refines what the decoder paints."""

CAPTIONS = 4000
"""Captions that the tokenizer is found from."""


def write_start(folder: Path) -> None:
    """Write the model: a linear code, a tokenizer, a random text encoder, and a transformer that is never used.

    `heliograph train` with the preset embedded-adapt makes its transformer anew, in the size the preset says.
    """
    write_random_tiny(folder, 0, TinySizes(text_dim=TEXT_DIM, max_text_tokens=TEXT_TOKENS), "mid")
    for part in ("tokenizer", "text_encoder", "vae"):
        for file in (folder / part).iterdir():
            file.unlink()
    tokenizer = make_tokenizer(CAPTIONS, TEXT_TOKENS)
    save_tokenizer(tokenizer, folder / "tokenizer")
    _write_text_encoder(folder / "text_encoder", len(tokenizer))
    fit_code(CODE_CLIPS, (HEIGHT, WIDTH), 16, DECODER_DIM, STRIDE).save_pretrained(folder / "vae")
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    index |= {
        "vae": ["heliograph", "LinearAutoencoder"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
    }
    _write(folder / "model_index.json", index)
    _write(folder / "heliograph.json", {"height": HEIGHT, "width": WIDTH})


def _write_text_encoder(folder: Path, vocabulary: int) -> None:
    config = UMT5Config(
        vocab_size=vocabulary,
        d_model=TEXT_DIM,
        d_kv=TEXT_DIM // 4,
        d_ff=2 * TEXT_DIM,
        num_layers=TEXT_LAYERS,
        num_heads=4,
        dropout_rate=0.0,
        architectures=["UMT5EncoderModel"],
    )
    config.save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = UMT5EncoderModel(config).state_dict()
    weights.pop("encoder.embed_tokens.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _write(file: Path, values: dict[str, object]) -> None:
    file.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
