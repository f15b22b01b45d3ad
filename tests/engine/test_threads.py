"""Threads on a CPU: a rule that depends on the model, and frames that do not wait for one another's decoding."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from heliograph.engine import threads
from heliograph.engine.session import chunks_of
from heliograph.engine.threads import threads_for, use_threads
from heliograph.pipeline import HeliosPipeline


@pytest.mark.parametrize("cores", [1, 2, 64])
def test_a_small_model_runs_on_one_thread_whatever_the_machine(cores: int) -> None:
    assert threads_for(5_000_000, cores)[0] == 1
    assert threads_for(14_000_000_000, cores)[0] == cores


def test_threads_asked_for_win_over_those_planned_and_a_gpu_plans_none(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(threads.torch, "set_num_threads", given.append)
    use_threads(3, 1)
    use_threads(None, 1)
    use_threads(None, None)
    assert given == [3, 1]


def test_chunks_decoded_beside_the_sampling_are_those_decoded_in_turn(fast_folder: Path) -> None:
    pipeline = HeliosPipeline.from_pretrained(fast_folder, device="cpu")
    assert pipeline.engine.num_threads == 1
    session = pipeline.session("a red fish", steps=(1, 1, 1), seed=3)
    beside = list(chunks_of(session, 3))
    other = pipeline.session("a red fish", steps=(1, 1, 1), seed=3)
    for number, chunk in enumerate(beside):
        in_turn = other.next_chunk()
        assert chunk.index == in_turn.index == number
        assert np.array_equal(chunk.frames, in_turn.frames)
        assert torch.equal(chunk.latents, in_turn.latents)


def test_an_error_of_the_decoder_reaches_whoever_waits_for_the_frames(fast_folder: Path) -> None:
    pipeline = HeliosPipeline.from_pretrained(fast_folder, device="cpu")

    class Broken:
        """Fails as a decoder can."""

        def decode(self, z: torch.Tensor, /) -> torch.Tensor:
            """Never."""
            raise MemoryError("no room for frames")

    broken = replace(pipeline.engine)
    broken.codec.decoder = Broken()
    session = HeliosPipeline(broken, pipeline.folder).session("a red fish", steps=(1, 1, 1))
    with pytest.raises(MemoryError, match="no room"):
        session.next_chunk()
