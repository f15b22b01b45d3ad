"""Decoding, bytes and delivery: what arrives on the host, in what order, and what is never waited for."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

from heliograph.bench.subject import Asked, random_subject
from heliograph.config import SpeedConfig
from heliograph.engine import pictures
from heliograph.engine.decoders import fits_beside
from heliograph.engine.pictures import FIRST, Pictures
from heliograph.engine.session import Session, chunks_of
from heliograph.memory import History
from heliograph.pipeline import HeliosPipeline
from heliograph.request import Request
from heliograph.timeline import Cue, PromptTimeline
from heliograph.vae import LatentCodec
from heliograph.wan_decoder import WanDecoder, pass_bytes
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


def test_a_gpu_decodes_on_a_lane_where_both_fit_and_is_asked_once_for_each_size(
    pipe: HeliosPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane: list[str] = []
    asked: list[tuple[int, int]] = []

    class Recorded:
        def __init__(self, device: torch.device, priority: int) -> None:
            lane.append(f"{device} {priority}")

        @contextmanager
        def beside(self) -> Iterator[None]:
            lane.append("begins")
            yield
            lane.append("ends")

    class Decoder:
        def decode(self, z: torch.Tensor) -> torch.Tensor:
            lane.append("decodes")
            return torch.zeros(1, 3, 33, z.shape[-2] * 8, z.shape[-1] * 8)

    def fits(height: int, width: int) -> bool:
        asked.append((height, width))
        return height == 64

    monkeypatch.setattr(pictures, "Lane", Recorded)
    made = Pictures(LatentCodec(pipe.engine.codec.autoencoder, Decoder()), fits)
    for rows in (8, 8, 16):
        made.begin(0, torch.zeros(1, 16, 9, rows, 8)).wait()
    assert lane == [f"cpu {FIRST}", *["begins", "decodes", "ends"] * 2, "decodes"]
    assert asked == [(64, 64), (128, 64)]


def test_both_fit_where_three_quarters_of_what_is_free_hold_a_forward_pass_and_a_decode() -> None:
    autoencoder = AutoencoderKLWan(base_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    decoder = WanDecoder(autoencoder, torch.float16, (1, 8))
    decode = pass_bytes((1, 8), 64, 96, 4, torch.float16)
    assert decoder.chunk_bytes(64, 96) == decode
    enough = -(-(1000 + decode) * 4 // 3)
    assert fits_beside(decoder, (64, 96), 1000, enough)
    assert not fits_beside(decoder, (64, 96), 1000, enough - 2)
    assert not fits_beside(None, (64, 96), 0, 10**12), "the autoencoder's own decode is not made for it"


def test_a_cpu_has_no_lane(pipe: HeliosPipeline) -> None:
    assert not pipe.engine._decodes_beside(64, 64)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_frames_decoded_beside_the_next_chunk_are_those_decoded_in_turn() -> None:
    subject = random_subject("small", "cuda", torch.bfloat16, Asked((1, 1, 1)))
    engine = subject.engine
    assert engine._decodes_beside(64, 64)
    request = Request(PromptTimeline((Cue(0, subject.prompt),)), "", 64, 64, 0, subject.sampler)
    videos = []
    for made in (Pictures(engine.codec), engine.pictures):
        vars(engine)["pictures"] = made
        session = Session(engine, request, History.empty((1, 16, 8, 8), engine.memory, engine.device))
        videos.append(np.concatenate([chunk.frames for chunk in chunks_of(session, 5)]))
    assert np.array_equal(*videos)
