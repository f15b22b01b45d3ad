"""History: what is remembered, what is forgotten, and where each frame sits in the model's window."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from heliograph.config import MemoryConfig
from heliograph.errors import UserError
from heliograph.memory import History, Tiers, frame_indices
from tests.small import random_history, steady, wave

RELEASED = MemoryConfig()
SHAPE = (1, 1, 2, 2)


def numbered(first: int, count: int = 9, batch: int = 1) -> Tensor:
    """Latent frames filled with their own number; zero is left for frames that do not exist."""
    numbers = torch.arange(first, first + count).float()
    return numbers.reshape(1, 1, -1, 1, 1).expand(batch, 1, count, 2, 2).clone()


def generated(num_chunks: int, memory: MemoryConfig = RELEASED) -> History:
    """The history of a video from text after so many chunks; generated frame j holds j + 1."""
    history = History.empty(SHAPE, memory)
    for chunk in range(num_chunks):
        history = history.push(numbered(9 * chunk + 1))
    return history


def held(tiers: Tiers) -> dict[str, list[int]]:
    """The numbers of the frames in each tier."""
    return {name: getattr(tiers, name).latents[0, 0, :, 0, 0].int().tolist() for name in ("long", "mid", "short")}


# Frame indices


def test_released_frame_indices_are_the_published_ones() -> None:
    index = frame_indices(RELEASED, 9)
    assert index.long == tuple(range(1, 17))
    assert index.mid == (17, 18)
    assert index.short == (0, 19)
    assert index.chunk == tuple(range(20, 29))


@steady
@given(
    long=st.integers(1, 20),
    mid=st.integers(1, 6),
    short=st.integers(1, 6),
    keeps_anchor=st.booleans(),
    chunk=st.integers(1, 20),
)
def test_frame_indices_of_tiers_and_chunk_have_no_gaps(
    *, long: int, mid: int, short: int, keeps_anchor: bool, chunk: int
) -> None:
    memory = MemoryConfig(long, mid, short, keeps_anchor=keeps_anchor)
    index = frame_indices(memory, chunk)
    everything = (*index.long, *index.mid, *index.short, *index.chunk)
    assert sorted(everything) == list(range(memory.num_frames + keeps_anchor + chunk))
    assert [len(part) for part in (index.long, index.mid, index.chunk)] == [long, mid, chunk]
    assert max(everything) == index.chunk[-1]
    assert index.short[0] == 0 or not keeps_anchor


@pytest.mark.parametrize("num_chunks", [0, 1, 5])
def test_frame_indices_are_the_same_for_every_chunk_of_a_video(num_chunks: int) -> None:
    tiers, index = generated(num_chunks).tiers(9), frame_indices(RELEASED, 9)
    assert (tiers.long.frames, tiers.mid.frames, tiers.short.frames) == (index.long, index.mid, index.short)
    assert tiers.chunk_frames == index.chunk


@pytest.mark.parametrize("num_chunks", [0, 1, 7])
def test_absolute_positions_move_on_with_the_video_and_leave_the_anchor_at_its_start(num_chunks: int) -> None:
    relative, absolute = frame_indices(RELEASED, 9), frame_indices(MemoryConfig(positions="absolute"), 9, num_chunks)
    for name in ("long", "mid", "chunk"):
        assert getattr(absolute, name) == tuple(index + 9 * num_chunks for index in getattr(relative, name))
    assert absolute.short == (0, relative.short[1] + 9 * num_chunks)
    assert generated(num_chunks, MemoryConfig(positions="absolute")).tiers(9).chunk_frames == absolute.chunk


def test_positions_of_another_kind_are_refused() -> None:
    memory = MemoryConfig()
    object.__setattr__(
        memory, "positions", "rotary"
    )  # as a damaged file would say; the constructor's types are checked
    with pytest.raises(UserError, match="relative or absolute"):
        memory.__post_init__()


@pytest.mark.parametrize("keeps_anchor", [True, False])
def test_every_remembered_frame_has_an_index(*, keeps_anchor: bool) -> None:
    tiers = generated(3, MemoryConfig(8, 4, 2, keeps_anchor=keeps_anchor)).tiers(9)
    for tier in (tiers.long, tiers.mid, tiers.short):
        assert len(tier.frames) == tier.latents.shape[2]
    assert len(tiers.short.frames) == 2 + keeps_anchor


# What is remembered


@pytest.mark.parametrize(
    ("num_chunks", "long", "mid", "short"),
    [
        (0, [0] * 16, [0, 0], [0, 0]),
        (1, [0] * 10 + [1, 2, 3, 4, 5, 6], [7, 8], [1, 9]),
        (2, [0, *range(1, 16)], [16, 17], [1, 18]),
        (3, list(range(9, 25)), [25, 26], [1, 27]),
        (5, list(range(27, 43)), [43, 44], [1, 45]),
    ],
)
def test_memory_of_a_video_from_text_is_the_published_one(
    num_chunks: int, long: list[int], mid: list[int], short: list[int]
) -> None:
    assert held(generated(num_chunks).tiers(9)) == {"long": long, "mid": mid, "short": short}


def test_history_longer_than_memory_forgets_the_oldest_first() -> None:
    memory = MemoryConfig(3, 2, 1)
    history = History.empty(SHAPE, memory)
    for last in range(1, 15):
        history = history.push(numbered(last, 1))
        kept = history.latents[0, 0, :, 0, 0].int().tolist()
        assert kept == [max(last - k, 0) for k in range(5, -1, -1)]


def test_the_anchor_never_changes_and_never_leaves() -> None:
    history = generated(1)
    for chunk in range(1, 12):
        history = history.push(numbered(9 * chunk + 1))
        assert held(history.tiers(9))["short"] == [1, 9 * chunk + 9]


def test_an_anchor_that_was_given_is_kept() -> None:
    history = History.from_image(numbered(77, 1), numbered(78, 1), RELEASED)
    assert held(history.push(numbered(1)).tiers(9))["short"] == [77, 9]


def test_a_video_may_be_held_to_another_anchor() -> None:
    history = generated(4)
    other = history.with_anchor(numbered(99, 1))
    assert held(other.push(numbered(1)).tiers(9))["short"] == [99, 9]
    assert torch.equal(other.latents, history.latents)
    assert held(history.tiers(9))["short"] == [1, 36]


def test_a_memory_without_anchor_shows_the_newest_frames_alone() -> None:
    tiers = generated(3, MemoryConfig(3, 2, 1, keeps_anchor=False)).tiers(9)
    assert held(tiers) == {"long": [22, 23, 24], "mid": [25, 26], "short": [27]}


def test_memory_does_not_grow_with_the_video() -> None:
    sizes = {h.latents.untyped_storage().nbytes() for h in (generated(n) for n in (0, 1, 4, 9))}
    assert len(sizes) == 1


def test_chunks_are_counted() -> None:
    assert [generated(n).num_chunks for n in (0, 1, 5)] == [0, 1, 5]


# Starts


def test_a_video_from_text_starts_with_nothing() -> None:
    history = History.empty((2, 16, 4, 6), RELEASED)
    assert history.latents.shape == (2, 16, 19, 4, 6)
    assert not history.latents.any()
    assert history.anchor is None
    assert history.tiers(9).short.latents.shape == (2, 16, 2, 4, 6)


def test_an_image_is_the_anchor_and_the_newest_frame() -> None:
    tiers = History.from_image(numbered(5, 1), numbered(6, 1), RELEASED).tiers(9)
    assert held(tiers) == {"long": [0] * 16, "mid": [0, 0], "short": [5, 6]}


@pytest.mark.parametrize(
    ("count", "long", "mid", "newest"),
    [(9, [0] * 10 + [1, 2, 3, 4, 5, 6], [7, 8], 9), (27, list(range(9, 25)), [25, 26], 27)],
)
def test_a_clip_fills_the_memory_with_its_newest_frames(
    count: int, long: list[int], mid: list[int], newest: int
) -> None:
    tiers = History.from_video(numbered(50, 1), numbered(1, count), RELEASED).tiers(9)
    assert held(tiers) == {"long": long, "mid": mid, "short": [50, newest]}


def test_a_clip_without_an_anchor_takes_the_first_frame_that_is_made() -> None:
    history = History.from_video(None, numbered(1, 9), RELEASED)
    assert held(history.tiers(9))["short"] == [0, 9]
    assert held(history.push(numbered(40)).tiers(9))["short"] == [40, 48]


# Values


def test_pushing_leaves_the_history_before_it_as_it_was() -> None:
    before = random_history()
    latents, anchor = before.latents.clone(), before.anchor.clone()
    after = before.push(wave((1, 16, 9, 8, 8), 0.3))
    assert torch.equal(before.latents, latents)
    assert torch.equal(before.anchor, anchor)
    assert before.num_chunks == 3
    assert after.num_chunks == 4


def test_histories_branch() -> None:
    trunk = generated(2)
    one, other = trunk.push(numbered(100)), trunk.push(numbered(200))
    assert held(one.tiers(9))["mid"] == [106, 107]
    assert held(other.tiers(9))["mid"] == [206, 207]


def test_a_chunk_that_is_overwritten_later_does_not_reach_the_history() -> None:
    chunk = numbered(1)
    history = History.empty(SHAPE, RELEASED).push(chunk)
    chunk.fill_(-1)
    assert held(history.tiers(9)) == {"long": [0] * 10 + [1, 2, 3, 4, 5, 6], "mid": [7, 8], "short": [1, 9]}


def test_a_clip_that_is_overwritten_later_does_not_reach_the_history() -> None:
    clip = numbered(1, 19)
    history = History.from_video(numbered(50, 1), clip, RELEASED)
    clip.fill_(-1)
    assert held(history.tiers(9))["mid"] == [17, 18]


@pytest.mark.parametrize("start", [History.from_image, History.from_video])
def test_an_anchor_that_is_overwritten_later_does_not_reach_the_history(start: Callable[..., History]) -> None:
    anchor = numbered(50, 1)
    history = start(anchor, numbered(1, 1), RELEASED)
    other = history.with_anchor(replaced := numbered(60, 1))
    anchor.fill_(-1)
    replaced.fill_(-1)
    assert held(history.tiers(9))["short"] == [50, 1]
    assert held(other.tiers(9))["short"] == [60, 1]


def test_latents_are_remembered_in_float32() -> None:
    chunk = wave((1, 1, 9, 2, 2), 0.3).bfloat16()
    history = History.empty(SHAPE, RELEASED).push(chunk)
    assert history.latents.dtype == history.anchor.dtype == torch.float32
    assert torch.equal(history.latents[:, :, -9:], chunk.float())


def test_samples_of_a_batch_have_their_own_memory() -> None:
    chunk = torch.cat([numbered(1), numbered(101)])
    history = History.empty((2, 1, 2, 2), RELEASED).push(chunk)
    assert history.anchor[:, 0, 0, 0, 0].tolist() == [1, 101]
    assert history.latents[:, 0, -1, 0, 0].tolist() == [9, 109]
