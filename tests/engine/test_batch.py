"""Chunks of several sessions made in one pass."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from heliograph.engine.batch import batch_key, next_chunks
from heliograph.pipeline import HeliosPipeline


@pytest.fixture(scope="module")
def pipe(fast_folder: Path) -> HeliosPipeline:
    return HeliosPipeline.from_pretrained(fast_folder, device="cpu")


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_each_chunk_of_a_pass_is_what_its_session_alone_would_make(pipe: HeliosPipeline, scale: float) -> None:
    prompts = ("a red fish", "a boat", "snow")
    together = [pipe.session(p, seed=n, guidance_scale=scale, negative_prompt=p) for n, p in enumerate(prompts)]
    alone = [session.fork() for session in together]
    for _ in range(3):
        made = next_chunks(together)
        for session, chunk in zip(alone, made, strict=True):
            own = session.next_chunk()
            assert own.index == chunk.index
            assert torch.allclose(own.latents, chunk.latents, rtol=1e-3, atol=1e-4)
    assert [session.num_chunks for session in together] == [3, 3, 3]


def test_sessions_at_different_chunks_are_made_in_one_pass(pipe: HeliosPipeline) -> None:
    old, young = pipe.session("a red fish", seed=1), pipe.session("a boat", seed=2)
    old.next_chunk(), old.next_chunk(), young.next_chunk()
    assert batch_key(old) == batch_key(young)
    expected = [old.fork().next_chunk(), young.fork().next_chunk()]
    for want, got in zip(expected, next_chunks([old, young]), strict=True):
        assert want.index == got.index and torch.allclose(want.latents, got.latents, rtol=1e-3, atol=1e-4)


def test_the_model_is_asked_once_for_all(pipe: HeliosPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    forward = pipe.engine.denoiser.transformer.forward
    monkeypatch.setattr(
        pipe.engine.denoiser.transformer, "forward", lambda x, *rest: sizes.append(len(x)) or forward(x, *rest)
    )
    next_chunks([pipe.session("a", seed=n) for n in range(3)])
    assert set(sizes) == {3}


def test_unlike_sessions_have_different_keys(pipe: HeliosPipeline) -> None:
    session = pipe.session("a", seed=1)
    others = [
        pipe.session("a", seed=1, steps=(1, 1, 1)),
        pipe.session("a", seed=1, guidance_scale=2.0),
        pipe.session("a", seed=1, height=128),
    ]
    assert len({batch_key(one) for one in (session, *others)}) == 4
    with pytest.raises(AssertionError, match="like sessions"):
        next_chunks([session, others[0]])
    later = pipe.session("a", seed=1)
    later.history = replace(later.history, num_chunks=5)
    is_boosted = later.request.sampler.first_chunk_steps is not None
    assert (batch_key(later) == batch_key(session)) != is_boosted
