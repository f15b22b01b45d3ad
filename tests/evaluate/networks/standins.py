"""Small random networks in the files of the real ones, and a judge on this machine that says what it is told to."""

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch
from torch import nn
from transformers import CLIPConfig, CLIPModel

from heliograph.evaluate.networks.amt import AmtS
from heliograph.evaluate.networks.vit import TextTower, VisionTower

SIDE, PATCH, WIDTH, FEATURES = 28, 14, 64, 16
"""Of the small towers."""

MERGES = [("r", "e"), ("f", "i"), ("re", "d</w>"), ("s", "h</w>"), ("fi", "sh</w>")]
"""Enough to know two words."""


def scatter(network: nn.Module, seed: int = 0, std: float = 0.2) -> nn.Module:
    """Random weights."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    return network


def small_clip() -> CLIPModel:
    """A CLIP of the library `transformers`."""
    sides = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": 2, "num_attention_heads": 1}
    vision = {**sides, "image_size": SIDE, "patch_size": PATCH, "projection_dim": FEATURES}
    config = CLIPConfig(text_config={**sides, "vocab_size": 99}, vision_config=vision, projection_dim=FEATURES)
    return CLIPModel(config).eval()


def write_clip(folder: Path) -> None:
    """A folder of `transformers` and LAION's head."""
    scatter(small_clip()).save_pretrained(folder / "clip")
    torch.save(scatter(nn.Linear(FEATURES, 1)).state_dict(), folder / "sa_0_4_vit_l_14_linear.pth")


def write_amt(folder: Path) -> None:
    """AMT-S at its real size, which is small."""
    torch.save({"state_dict": scatter(AmtS(), std=0.05).state_dict()}, folder / "amt-s.pth")


def write_viclip(folder: Path) -> None:
    """Both towers and a vocabulary. The kernel is one frame deep, as in the real file."""
    vision = scatter(VisionTower(WIDTH, PATCH, 5, 2, FEATURES, 8)).state_dict()
    vision["conv1.weight"] = vision["conv1.weight"].unsqueeze(2)
    text = scatter(TextTower(WIDTH, 32, 512 + len(MERGES) + 2, 2, FEATURES), seed=1).state_dict()
    state = {f"vision_encoder.{name}": tensor for name, tensor in vision.items()}
    state |= {f"text_encoder.{name}": tensor for name, tensor in text.items()}
    torch.save({"model": {**state, "temp": torch.ones([])}}, folder / "ViClip-InternVid-10M-FLT.pth")
    with gzip.open(folder / "bpe_simple_vocab_16e6.txt.gz", "wt", encoding="utf-8") as stream:
        stream.write("\n".join(["version", *(" ".join(pair) for pair in MERGES)]))


@contextmanager
def judge(*answers: str | int) -> Iterator[tuple[str, list[dict]]]:
    """Its address, and what it was asked. Answers are given in turn, the last one for ever; a number is an error."""
    asked: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
            answer = answers[min(len(asked), len(answers)) - 1]
            self.send_response(answer if isinstance(answer, int) else 200)
            self.end_headers()
            self.wfile.write(json.dumps({"choices": [{"message": {"content": answer}}]}).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
    finally:
        server.shutdown()
        server.server_close()
