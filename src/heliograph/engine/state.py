"""A session on disk: its request and history in one file that is checked before it is used and never unpickled."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from heliograph.config import MemoryConfig
from heliograph.errors import StateError
from heliograph.media.target import write_whole
from heliograph.memory import History
from heliograph.request import Request

FORMAT = "heliograph-session"
VERSION = 1
MAX_STATE_BYTES = 512 * 2**20
"""Largest state file that is read; one at 384×640 has about 5 MB."""

_LATENTS, _ANCHOR, _META = "history.latents", "history.anchor", "meta"


@dataclass(frozen=True)
class SessionState:
    """All that a session is: what was asked, what the model remembers, and which model it belongs to."""

    request: Request
    history: History
    fingerprint: str


def write_state(path: Path, state: SessionState) -> None:
    """Write the state whole, or leave what was there.

    Raises:
        OutputError: the file cannot be written.
    """
    write_whole(path, encode_state(state))


def encode_state(state: SessionState) -> bytes:
    """A safetensors file: the latents, and a JSON text with the rest and a digest over everything."""
    history = state.history
    tensors = {_LATENTS: history.latents.cpu().contiguous()}
    if history.anchor is not None:
        tensors[_ANCHOR] = history.anchor.cpu().contiguous()
    meta = {
        "format": FORMAT,
        "version": VERSION,
        "request": state.request.as_json(),
        "num_chunks": history.num_chunks,
        "memory": vars(history.memory),
        "fingerprint": state.fingerprint,
    }
    meta["digest"] = _digest(meta, tensors)
    text = torch.frombuffer(bytearray(json.dumps(meta).encode()), dtype=torch.uint8)
    return save({**tensors, _META: text})


def read_state(path: Path) -> SessionState:
    """Read a state that `write_state` wrote.

    Raises:
        StateError: the file is missing, damaged, too large, or of another version.
    """
    try:
        if path.stat().st_size > MAX_STATE_BYTES:
            raise StateError(f"{path} is larger than {MAX_STATE_BYTES} bytes, so it is no saved session")
        return decode_state(path.read_bytes())
    except OSError as error:
        raise StateError(f"{path} cannot be read ({error.strerror}); give a file that session.save wrote") from error
    except StateError as error:
        raise StateError(f"{path}: {error}") from error


def decode_state(data: bytes) -> SessionState:
    """The state in `data`.

    Raises:
        StateError: it is damaged or of another version.
    """
    try:
        tensors = load(data)
        meta = json.loads(tensors.pop(_META).numpy().tobytes())
        digest = meta.pop("digest")
        is_ours, version = meta["format"] == FORMAT, meta["version"]
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise StateError("this is no saved session, or it is damaged; use another copy") from error
    if not is_ours or version != VERSION:
        raise StateError(f"the session has version {version}, this program reads version {VERSION}; save it again")
    if digest != _digest(meta, tensors) or _LATENTS not in tensors:
        raise StateError("the saved session is damaged: its digest does not match; use another copy")
    memory = MemoryConfig(**meta["memory"])
    history = History(tensors[_LATENTS], tensors.get(_ANCHOR), meta["num_chunks"], memory)
    return SessionState(Request.from_json(meta["request"]), history, meta["fingerprint"])


def _digest(meta: dict[str, object], tensors: dict[str, Tensor]) -> str:
    """Digest of the JSON part and of names, shapes and bytes of the tensors."""
    digest = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tuple(tensors[name].shape)} {tensors[name].dtype}".encode())
        digest.update(tensors[name].contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
