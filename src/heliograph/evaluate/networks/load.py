"""Which networks are at hand: found by their names in a folder of weights, as HeliosBench's download has them.

aesthetic     `ViT-L-14.pt` (OpenAI's file) or a folder of `transformers` with a CLIP, and `sa_0_4_vit_l_14_linear.pth`
smoothness    `amt-s.pth`
semantic      `ViClip-InternVid-10M-FLT.pth` and `bpe_simple_vocab_16e6.txt.gz`
naturalness   no file: a judge's address

What is not there is not measured. A file that is there and cannot be used is an error.
"""

import hashlib
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from heliograph.errors import CheckpointError, UserError
from heliograph.evaluate.networks.aesthetic import Aesthetic
from heliograph.evaluate.networks.amt import AmtS
from heliograph.evaluate.networks.judge import Judge, Naturalness
from heliograph.evaluate.networks.semantic import Semantic
from heliograph.evaluate.networks.smoothness import Smoothness
from heliograph.evaluate.networks.vit import (
    TextTower,
    VisionTower,
    from_transformers,
    text_tower,
    under,
    vision_tower,
)
from heliograph.evaluate.networks.vocabulary import read_vocabulary
from heliograph.evaluate.watch import Watcher

CLIP_FILE, HEAD_FILE = "ViT-L-14.pt", "sa_0_4_vit_l_14_linear.pth"
AMT_FILE, VICLIP_FILE, VOCABULARY_FILE = "amt-s.pth", "ViClip-InternVid-10M-FLT.pth", "bpe_simple_vocab_16e6.txt.gz"

DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, EOFError, pickle.UnpicklingError, SafetensorError)
"""What reading a damaged or foreign file of weights raises."""

T = TypeVar("T")


@dataclass(frozen=True)
class NetworkOptions:
    """Where networks come from; None where they do not.

    Attributes:
        weights: folder that is searched, with those below it.
        judge: address of an OpenAI-compatible service, up to and with `/v1`.
        judge_model: the judge's name there.
        judge_key: sent as a bearer token.
        device: where networks run; `auto` is a GPU where there is one.
    """

    weights: Path | None = None
    judge: str | None = None
    judge_model: str = ""
    judge_key: str | None = None
    device: str = "auto"


def load_watchers(options: NetworkOptions) -> list[Watcher]:
    """Every metric whose network is there.

    Raises:
        UserError: there is no such folder, or it holds none of the files.
        CheckpointError: a file is damaged or of another network.
    """
    found: list[Watcher] = []
    if options.weights is not None:
        found += _from_folder(options.weights, _device(options.device))
        if not found:
            raise UserError(
                f"{options.weights} holds none of the networks; give a folder with {AMT_FILE}, or {VICLIP_FILE} and "
                f"{VOCABULARY_FILE}, or {CLIP_FILE} and {HEAD_FILE}"
            )
    if options.judge is not None:
        found.append(Naturalness(Judge(options.judge, options.judge_model, options.judge_key)))
    return found


def _from_folder(folder: Path, device: torch.device) -> list[Watcher]:
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; give the folder of the networks")
    found: list[Watcher] = []
    clip, head = _clip(folder), _file(folder, HEAD_FILE)
    if clip and head:
        tower = _read(clip, lambda file: vision_tower(_clip_weights(file))).to(device)
        found.append(Aesthetic(tower, _read(head, _head).to(device), _digest(clip, head)))
    if amt := _file(folder, AMT_FILE):
        found.append(Smoothness(_read(amt, _amt).to(device), _digest(amt)))
    viclip, words = _file(folder, VICLIP_FILE), _file(folder, VOCABULARY_FILE)
    if viclip and words:
        towers = _read(viclip, _viclip)
        found.append(
            Semantic(towers[0].to(device), towers[1].to(device), _read(words, read_vocabulary), _digest(viclip, words))
        )
    return found


def _device(name: str) -> torch.device:
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _file(folder: Path, name: str) -> Path | None:
    return next(iter(sorted(folder.rglob(name))), None)


def _clip(folder: Path) -> Path | None:
    """OpenAI's file, or the weights of a CLIP of `transformers`."""
    if file := _file(folder, CLIP_FILE):
        return file
    for config in sorted(folder.rglob("config.json")):
        try:
            kind = json.loads(config.read_text(encoding="utf-8")).get("model_type")
        except (OSError, ValueError, AttributeError):
            continue
        if kind == "clip" and (file := config.with_name("model.safetensors")).is_file():
            return file
    return None


def _read(file: Path, read: Callable[[Path], T]) -> T:
    try:
        return read(file)
    except DAMAGE as error:
        text = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{file} cannot be used ({type(error).__name__}: {text}); download it again") from error


def _tensors(file: Path) -> dict[str, Any]:
    """A file of tensors, perhaps in folders of names; nothing in it is run."""
    return torch.load(file, map_location="cpu", weights_only=True)


def _clip_weights(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        return from_transformers(load_file(file))
    try:
        state = torch.jit.load(file, map_location="cpu").state_dict()  # as OpenAI stores it
    except RuntimeError:
        state = _tensors(file)
    return under("visual.", state)


def _head(file: Path) -> nn.Linear:
    state = _tensors(file)
    head = nn.Linear(state["weight"].shape[1], 1)
    head.load_state_dict(state)
    return head.eval().requires_grad_(requires_grad=False)


def _amt(file: Path) -> AmtS:
    network = AmtS()
    network.load_state_dict(_tensors(file)["state_dict"])
    return network.eval().requires_grad_(requires_grad=False)


def _viclip(file: Path) -> tuple[VisionTower, TextTower]:
    state = _tensors(file)
    state = state.get("model", state)
    return vision_tower(under("vision_encoder.", state)), text_tower(under("text_encoder.", state))


def _digest(*files: Path) -> str:
    """Names the files by their contents: scores of other weights are other scores."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(2**22):
                digest.update(block)
    return f"{' and '.join(file.name for file in files)}, sha256 {digest.hexdigest()[:12]}"
