"""Saved sessions: small, whole, versioned, and refused when damaged."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from heliograph.engine.state import SessionState, decode_state, encode_state, read_state, write_state
from heliograph.errors import OutputError, StateError
from heliograph.presets import SAMPLERS
from heliograph.request import Request
from heliograph.timeline import Cue, PromptTimeline
from tests.small import random_history


def example(preset: str = "distilled") -> SessionState:
    """A state with everything in it."""
    timeline = PromptTimeline((Cue(0, "a fish"), Cue(4, "ein Fisch, größer 🐟", 3)))
    request = Request(timeline, "blurred", 64, 64, 2**62, SAMPLERS[preset])
    return SessionState(request, random_history(), "f" * 64)


@pytest.mark.parametrize("preset", SAMPLERS)
def test_what_was_saved_is_read_back(tmp_path: Path, preset: str) -> None:
    state = example(preset)
    write_state(tmp_path / "state", state)
    back = read_state(tmp_path / "state")
    assert back.request == state.request
    assert back.fingerprint == state.fingerprint
    assert back.history.num_chunks == 3
    assert torch.equal(back.history.latents, state.history.latents)
    assert state.history.anchor is not None and back.history.anchor is not None
    assert torch.equal(back.history.anchor, state.history.anchor)


def test_a_state_at_384_by_640_is_a_few_megabytes() -> None:
    request = Request(PromptTimeline((Cue(0, "a"),)), "", 384, 640, 0, SAMPLERS["distilled"])
    data = encode_state(SessionState(request, random_history(48, 80), "f"))
    assert len(data) < 6_000_000


@settings(max_examples=60, suppress_health_check=[HealthCheck.differing_executors])
@given(st.data())
def test_any_damaged_byte_and_any_cut_is_refused(data: st.DataObject) -> None:
    good = encode_state(example())
    position = data.draw(st.integers(0, len(good) - 1))
    damaged = bytearray(good)
    damaged[position] ^= data.draw(st.integers(1, 255))
    for bad in (bytes(damaged), good[:position]):
        with pytest.raises(StateError):
            decode_state(bad)


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "trapped"),)

    (tmp_path / "state").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(StateError):
        read_state(tmp_path / "state")
    torch.save({"a": Trap()}, tmp_path / "other")
    with pytest.raises(StateError):
        read_state(tmp_path / "other")
    assert not (tmp_path / "trapped").exists()


def test_another_version_is_named() -> None:
    tensors = load(encode_state(example()))
    text = tensors["meta"].numpy().tobytes().replace(b'"version": 1', b'"version": 9')
    with pytest.raises(StateError, match="version 9"):
        decode_state(save({**tensors, "meta": torch.frombuffer(bytearray(text), dtype=torch.uint8)}))


def test_missing_empty_and_unreadable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for name in ("missing", "empty", "."):
        with pytest.raises(StateError, match=str(tmp_path)):
            read_state(tmp_path / name)


def test_a_place_that_cannot_be_written_keeps_what_was_there(tmp_path: Path) -> None:
    write_state(tmp_path / "state", example())
    before = (tmp_path / "state").read_bytes()
    with pytest.raises(OutputError):
        write_state(tmp_path / "missing" / "state", example())
    write_state(tmp_path / "state", example("base"))
    assert (tmp_path / "state").read_bytes() != before
    assert [p.name for p in tmp_path.iterdir()] == ["state"]
