"""Leading the colours of a chunk in from the one before: what it changes, and what it must not."""

from pathlib import Path

import numpy as np
import pytest
import torch

from heliograph.matching import FINE_FRAMES, fade, lead_in
from heliograph.pipeline import HeliosPipeline
from tests.small import wave


def picture(height: int = 64, width: int = 96) -> torch.Tensor:
    """A smooth picture in about ±0.6, `1 3 H W`."""
    down, across = torch.linspace(0, 3, height)[:, None], torch.linspace(0, 4, width)[None]
    return 0.6 * torch.stack([torch.sin(down + phase) * torch.cos(across - phase) for phase in (0.0, 1.0, 2.0)])[None]


def chunk(of: torch.Tensor) -> torch.Tensor:
    return of[:, :, None].repeat(1, 1, 33, 1, 1)


def test_the_first_frame_looks_like_the_one_before_and_the_last_is_untouched() -> None:
    frames = chunk(picture())
    led = lead_in(frames, picture() + 0.1)
    assert (led[:, :, 0] - picture()).mean() == pytest.approx(0.1, abs=0.01)
    assert torch.equal(led[:, :, -1], frames[:, :, -1])
    gaps = (led - frames).mean((0, 1, 3, 4))
    assert (gaps.diff() <= 1e-6).all() and gaps.diff().abs().max() < 0.006  # no jump is left anywhere


def test_a_chunk_that_fits_already_stays_as_it_is() -> None:
    frames = chunk(picture())
    assert torch.equal(lead_in(frames, picture()), frames)


def test_texture_is_taken_over_at_first_and_is_the_chunks_own_soon_after() -> None:
    texture = 0.05 * wave((1, 3, 64, 96), 0.3)
    frames = chunk(picture() + texture)
    led = lead_in(frames, picture() - texture)
    assert (led[:, :, 0] - (picture() - texture)).abs().mean() < 0.1 * texture.abs().mean()
    rest = led[:, :, FINE_FRAMES - 1 :] - frames[:, :, FINE_FRAMES - 1 :]
    assert rest.abs().max() < 0.2 * texture.abs().max()  # the coarse part alone


def test_what_has_jumped_leaves_no_shadow() -> None:
    before, frames = 0.3 * picture(), chunk(0.3 * picture())
    before[:, :, 8:24, 8:24] = 1.0
    frames[:, :, :, 32:48, 60:76] = 1.0
    led = lead_in(frames, before)
    assert (led - frames).abs().mean((0, 1, 2)).max() < 0.08  # of a jump of about 1


def test_a_steady_motion_goes_on_as_it_was() -> None:
    true = torch.stack([picture().roll(2 * step, dims=-1) for step in range(34)], dim=2)
    led = lead_in(true[:, :, 1:], true[:, :, 0])
    steps = torch.cat([true[:, :, :1], led], dim=2).diff(dim=2).abs().mean((0, 1, 3, 4))
    assert (led - true[:, :, 1:]).abs().mean() < 0.2 * float(steps.median())
    assert steps[0] > 0.6 * steps.median()  # not stopped for a frame


def test_a_new_scene_may_jump() -> None:
    frames = chunk(picture())
    assert torch.equal(lead_in(frames, -picture()), frames)
    assert not torch.equal(lead_in(frames, picture() * 0.8), frames)  # darker is not another scene


def test_weights_fall_from_one_to_zero() -> None:
    weights = fade(33)
    assert weights[0] == 1 and weights[-1] == 0 and (weights.diff() < 0).all()


# In a session


@pytest.fixture(scope="module")
def pipe(fast_folder: Path) -> HeliosPipeline:
    return HeliosPipeline.from_pretrained(fast_folder)


@pytest.fixture(scope="module")
def trained() -> HeliosPipeline:
    return HeliosPipeline.from_pretrained("tiny")


SMALL = {"height": 128, "width": 128, "steps": (1, 1, 1), "seed": 3}


def jump(before: np.ndarray, after: np.ndarray) -> float:
    """How far the last frame and the first of the next chunk lie apart over 8 × 8 fields of 16 × 16 pixels."""
    means = [frame.reshape(8, 16, 8, 16, 3).mean((1, 3)) for frame in (before[-1], after[0])]
    return float(np.abs(means[0] - means[1]).mean())


def test_matching_changes_what_is_shown_and_nothing_that_is_remembered(trained: HeliosPipeline) -> None:
    plain, matched = (trained.session("a red fish", match_chunks=matches, **SMALL) for matches in (False, True))
    first, second = plain.next_chunk(), plain.next_chunk()
    led = matched.next_chunk(), matched.next_chunk()
    assert np.array_equal(first.frames, led[0].frames)  # nothing comes before it
    assert torch.equal(second.latents, led[1].latents)
    assert np.array_equal(second.frames[-1], led[1].frames[-1])
    assert not np.array_equal(second.frames[0], led[1].frames[0])
    assert jump(led[0].frames, led[1].frames) < 0.7 * jump(first.frames, second.frames)


def test_off_is_the_default_and_gives_the_decoded_frames(pipe: HeliosPipeline) -> None:
    plain = pipe.session("a fish", **SMALL)
    chunks = [plain.next_chunk() for _ in range(2)]
    raw = pipe.engine.codec.decode_chunk(chunks[1].latents)
    levels = ((raw / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    assert np.array_equal(levels[0].permute(1, 2, 3, 0).numpy(), chunks[1].frames)


def test_a_resumed_and_a_forked_session_match_to_the_same_frames(pipe: HeliosPipeline, tmp_path: Path) -> None:
    session = pipe.session("a fish", match_chunks=True, **SMALL)
    for _ in range(2):
        session.next_chunk()
    session.save(tmp_path / "state")
    fork, resumed = session.fork(), pipe.resume(tmp_path / "state")
    want = session.next_chunk().frames
    assert np.array_equal(fork.next_chunk().frames, want)
    assert np.array_equal(resumed.next_chunk().frames, want)


def test_the_embedded_model_leads_in_unless_it_is_told_not_to(trained: HeliosPipeline) -> None:
    assert trained.request("a fish").matches_chunks
    assert not trained.request("a fish", match_chunks=False).matches_chunks
