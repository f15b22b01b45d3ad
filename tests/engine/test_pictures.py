"""Decoding, bytes and delivery: what arrives on the host, in what order, and what is never waited for."""

from pathlib import Path

import numpy as np
import pytest
import torch

from heliograph.bench.subject import Asked, random_subject
from heliograph.config import SpeedConfig
from heliograph.engine.pictures import Pictures
from heliograph.engine.session import Session, chunks_of
from heliograph.memory import History
from heliograph.pipeline import HeliosPipeline
from heliograph.request import Request
from heliograph.timeline import Cue, PromptTimeline
from heliograph.vae import LatentCodec
from tests.small import OutOfRange


@pytest.fixture(scope="module")
def pipe(fast_folder: Path) -> HeliosPipeline:
    return HeliosPipeline.from_pretrained(fast_folder, device="cpu", dtype="float32")


def test_chunks_begun_ahead_are_those_made_one_by_one(pipe: HeliosPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    session = pipe.session("a boat", seed=3, steps=(1, 1, 1))
    one_by_one = session.fork()
    alone = [one_by_one.next_chunk() for _ in range(3)]

    ahead = session.fork()
    waits: list[int] = []
    begun: list[int] = []
    begin = ahead.begin_chunk

    def begin_chunk() -> object:
        pending = begin()
        begun.append(pending.index)
        return pending

    monkeypatch.setattr(ahead, "begin_chunk", begin_chunk)
    for chunk, want in zip(chunks_of(ahead, 3), alone, strict=True):
        waits.append(len(begun))
        assert chunk.index == want.index
        assert np.array_equal(chunk.frames, want.frames)
        assert torch.equal(chunk.latents, want.latents)
    assert waits == [1, 3, 3], "the first frames come at once; after that the next chunk is under way meanwhile"


def test_a_device_of_the_decoder_alone_changes_no_frame(pipe: HeliosPipeline, fast_folder: Path) -> None:
    apart = HeliosPipeline.from_pretrained(
        fast_folder, device="cpu", dtype="float32", speed=SpeedConfig(vae_device="cpu")
    )
    got, want = (one.session("snow", seed=1, steps=(1, 1, 1)).next_chunk() for one in (apart, pipe))
    assert np.array_equal(got.frames, want.frames)


def test_a_chunk_that_overflows_is_decoded_again_in_full_precision(
    pipe: HeliosPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    codec = pipe.engine.codec
    latents = torch.randn(1, 16, 9, 8, 8, generator=torch.Generator().manual_seed(0))
    want = Pictures(codec).begin(0, latents).wait()
    careful = Pictures(LatentCodec(codec.autoencoder, OutOfRange()))
    got = careful.begin(0, latents).wait()
    assert np.array_equal(got.frames, want.frames)
    assert "out of range" in caplog.text
    assert careful.codec.decoder is None, "the next chunk does not try again"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_makes_the_same_video_twice() -> None:
    subject = random_subject("small", "cuda", torch.bfloat16, Asked((1, 1, 1)))
    engine = subject.engine
    request = Request(PromptTimeline((Cue(0, subject.prompt),)), "", 64, 64, 0, subject.sampler)
    videos = [
        np.concatenate([chunk.frames for chunk in chunks_of(session, 5)])
        for session in (
            Session(engine, request, History.empty((1, 16, 8, 8), engine.memory, engine.device)) for _ in range(2)
        )
    ]
    assert np.array_equal(*videos)
