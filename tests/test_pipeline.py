"""The public Python interface on a random tiny model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import heliograph
from heliograph import HeliosPipeline, PromptTimeline, StateError, UserError
from heliograph.pipeline import START_FRAMES, as_clip, as_picture
from tests.media.clips import moving, write_video

SIZE = {"height": 64, "width": 64}


@pytest.fixture(scope="module")
def pipe(fast_folder: Path) -> HeliosPipeline:
    """A loaded pipeline."""
    return HeliosPipeline.from_pretrained(fast_folder)


def frames_of(session: heliograph.Session, count: int) -> np.ndarray:
    """The next chunks of a session."""
    return np.stack([session.next_chunk().frames for _ in range(count)])


def test_num_frames_and_seconds_mean_what_they_say(pipe: HeliosPipeline) -> None:
    for asked, expected in (({"num_frames": 1}, 1), ({"num_frames": 34}, 34), ({"seconds": 1.5}, 36)):
        assert pipe("a red fish", **asked, **SIZE).frames.shape == (expected, 64, 64, 3)


@pytest.mark.parametrize("size", [(64, 128), (128, 64)], ids=["landscape", "portrait"])
def test_landscape_and_portrait_come_out_in_their_size(pipe: HeliosPipeline, size: tuple[int, int]) -> None:
    video = pipe("a red fish", num_frames=2, height=size[0], width=size[1])
    assert video.frames.shape == (2, *size, 3)


def test_the_same_seed_gives_the_same_video_and_another_seed_another(pipe: HeliosPipeline) -> None:
    first, again, other = (pipe("a fish", num_frames=40, seed=seed, **SIZE).frames for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_stream_gives_the_chunks_of_the_whole_video(pipe: HeliosPipeline) -> None:
    whole = pipe("a red fish", num_frames=66, seed=3, **SIZE).frames
    stream = pipe.stream("a red fish", seed=3, **SIZE)
    chunks = [next(stream), next(stream)]
    assert [chunk.index for chunk in chunks] == [0, 1]
    assert np.array_equal(np.concatenate([chunk.frames for chunk in chunks]), whole)
    assert chunks[0].latents.shape == (1, 16, 9, 8, 8)


def test_saved_and_resumed_session_goes_on_bit_for_bit(pipe: HeliosPipeline, tmp_path: Path) -> None:
    session = pipe.session("a red fish", seed=5, **SIZE)
    frames_of(session, 3)
    session.set_prompt("a blue boat", transition_chunks=3)
    frames_of(session, 1)  # stopped in the middle of a blend
    session.save(tmp_path / "state.heliograph")
    rest = frames_of(session, 3)
    assert np.array_equal(frames_of(pipe.resume(tmp_path / "state.heliograph"), 3), rest)


def test_a_session_resumes_in_a_newly_loaded_model(pipe: HeliosPipeline, fast_folder: Path, tmp_path: Path) -> None:
    session = pipe.session("a red fish", seed=6, **SIZE)
    frames_of(session, 1)
    session.save(tmp_path / "state.heliograph")
    other = HeliosPipeline.from_pretrained(fast_folder).resume(tmp_path / "state.heliograph")
    assert np.array_equal(frames_of(other, 2), frames_of(session, 2))


def test_a_fork_goes_its_own_way_and_leaves_the_original_alone(pipe: HeliosPipeline) -> None:
    session, twin = (pipe.session("a red fish", seed=7, **SIZE) for _ in range(2))
    frames_of(session, 1), frames_of(twin, 1)
    branch = session.fork()
    branch.set_prompt("a green bird", transition_chunks=0)
    other = frames_of(branch, 2)
    rest = frames_of(session, 2)
    assert np.array_equal(rest, frames_of(twin, 2))
    assert not np.array_equal(other, rest)


def test_a_prompt_set_between_chunks_equals_the_same_timeline_from_the_start(pipe: HeliosPipeline) -> None:
    live = pipe.session("a red fish", seed=8, **SIZE)
    before = frames_of(live, 2)
    assert live.set_prompt("a blue fish", transition_chunks=2) == 2
    steered = np.concatenate([before, frames_of(live, 3)])
    timeline = PromptTimeline((heliograph.Cue(0, "a red fish"), heliograph.Cue(2, "a blue fish", 2)))
    planned = frames_of(pipe.session(timeline, seed=8, **SIZE), 5)
    assert np.array_equal(steered, planned)


def test_history_and_memory_do_not_grow_with_the_video(pipe: HeliosPipeline) -> None:
    session = pipe.session("a red fish", **SIZE)
    frames_of(session, 4)
    assert session.history.latents.shape[2] == 19
    assert session.history.latents.untyped_storage().nbytes() == session.history.latents.nbytes


def test_guidance_and_the_negative_prompt_change_the_video(pipe: HeliosPipeline) -> None:
    plain = pipe("a fish", num_frames=5, **SIZE).frames
    assert np.array_equal(plain, pipe("a fish", num_frames=5, negative_prompt="blurred", **SIZE).frames)
    guided = pipe("a fish", num_frames=5, guidance_scale=4.0, **SIZE).frames
    avoiding = pipe("a fish", num_frames=5, guidance_scale=4.0, negative_prompt="blurred", **SIZE).frames
    assert not np.array_equal(plain, guided)
    assert not np.array_equal(guided, avoiding)
    coarse = pipe("a fish", num_frames=5, guidance_scale=4.0, guided_levels=1, **SIZE).frames
    assert not np.array_equal(coarse, plain) and not np.array_equal(coarse, guided)
    assert np.array_equal(guided, pipe("a fish", num_frames=5, guidance_scale=4.0, guided_levels=3, **SIZE).frames)


def test_an_image_start_keeps_the_picture_as_anchor(pipe: HeliosPipeline, tmp_path: Path) -> None:
    picture = moving(1, 80, 120)[0]
    path = tmp_path / "start.png"
    Image.fromarray(picture).save(path)
    starts = [pipe.session("a fish", image=start, **SIZE).history for start in (path, picture, Image.open(path))]
    assert all(torch.equal(starts[0].latents, other.latents) for other in starts[1:])
    assert starts[0].anchor is not None
    assert starts[0].latents[:, :, :-1].abs().max() == 0
    clean = heliograph.StartNoise((0.0, 0.0), (0.0, 0.0))
    still = pipe.session("a fish", image=path, start_noise=clean, seed=9, **SIZE).history
    noisy = pipe.session("a fish", image=path, seed=9, **SIZE).history
    assert still.anchor is not None and noisy.anchor is not None
    assert 0.05 < (still.anchor - noisy.anchor).std() < 0.5


def test_a_video_start_uses_the_newest_frames_and_the_first_as_anchor(tmp_path: Path) -> None:
    frames = moving(150)
    path = write_video(tmp_path / "clip.mp4", frames)
    clip = as_clip(path, 64, 96)
    assert clip.shape == (1, 3, START_FRAMES, 64, 96)
    want = as_clip(frames, 64, 96)
    assert (clip - want).abs().mean() < 0.05
    assert torch.equal(want[0, :, 0], as_picture(frames[0], 64, 96)[0])
    assert torch.equal(want[0, :, 1:, 0, 0], as_clip(frames[-99:], 64, 96)[0, :, :, 0, 0])


def test_a_video_start_is_continued(pipe: HeliosPipeline, tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", moving(40, 64, 64))
    session = pipe.session("a fish", video=path, **SIZE)
    assert session.history.latents.abs().amax(dim=(0, 1, 3, 4)).gt(0).sum() == 9
    assert session.next_chunk().frames.shape == (33, 64, 64, 3)


def test_progress_is_told_after_every_step(pipe: HeliosPipeline) -> None:
    session = pipe.session("a fish", steps=(1, 2, 1), first_chunk_steps=(1, 1, 1), **SIZE)
    seen: list[tuple[int, int]] = []
    session.on_step = lambda done, of: seen.append((done, of))
    frames_of(session, 2)
    assert seen == [(1, 3), (2, 3), (3, 3), (1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"height": 60}, ["height=60", "64"]),
        ({"width": 100}, ["width=100", "64", "128"]),
        ({"height": -64}, ["height=-64"]),
        ({"height": 10**9}, ["height=1000000000", "4096"]),
        ({"seed": -1}, ["seed=-1"]),
        ({"seed": 2**70}, ["seed="]),
        ({"steps": (2, 2)}, ["2 level(s)", "3"]),
        ({"steps": (0, 2, 2)}, ["0,2,2", "1 to 1000"]),
        ({"guidance_scale": float("nan")}, ["guidance_scale=nan"]),
        ({"guidance_scale": -3.0}, ["guidance_scale=-3.0"]),
        ({"image": "a.png", "video": "b.mp4"}, ["both", "one of them"]),
        ({"image": "no-such-file.png"}, ["no-such-file.png"]),
        ({"video": "no-such-file.mp4"}, ["no-such-file.mp4"]),
    ],
    ids=lambda v: str(v)[:40],
)
def test_what_cannot_be_done_is_refused_with_its_value(
    pipe: HeliosPipeline, choices: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(UserError) as refusal:
        pipe.session("a fish", **{**SIZE, **choices})
    assert all(word in str(refusal.value) for word in words), refusal.value


@pytest.mark.parametrize("prompt", ["", "   ", "&nbsp;", "\ud800"], ids=["empty", "blank", "entity", "surrogate"])
def test_a_prompt_with_nothing_in_it_is_refused(pipe: HeliosPipeline, prompt: str) -> None:
    with pytest.raises(UserError, match="prompt"):
        pipe.session(prompt, **SIZE)


def test_a_very_long_prompt_is_cut_and_said_to_be(pipe: HeliosPipeline) -> None:
    prompt = "a red fish swims to the left " * 3500
    session = pipe.session(prompt, **SIZE)
    assert session.is_truncated(prompt)
    assert not session.is_truncated("a red fish")
    assert session.next_chunk().frames.shape == (33, 64, 64, 3)


@pytest.mark.parametrize("length", [{"num_frames": 0}, {"seconds": -1.0}, {"seconds": float("nan")}, {"seconds": 1e12}])
def test_a_length_out_of_range_is_refused(pipe: HeliosPipeline, length: dict[str, float]) -> None:
    with pytest.raises(UserError, match="out of range"):
        pipe("a fish", **length, **SIZE)


def test_unknown_devices_dtypes_and_models_are_refused(fast_folder: Path, tmp_path: Path) -> None:
    for arguments in ({"device": "tpu"}, {"dtype": "int3"}):
        with pytest.raises(UserError, match=next(iter(arguments.values()))):
            HeliosPipeline.from_pretrained(fast_folder, **arguments)
    with pytest.raises(UserError, match="nowhere"):
        HeliosPipeline.from_pretrained(tmp_path / "nowhere")


def test_bfloat16_runs_and_stays_near_float32(fast_folder: Path, pipe: HeliosPipeline) -> None:
    low = HeliosPipeline.from_pretrained(fast_folder, dtype="bfloat16")
    assert low.engine.denoiser.dtype == torch.bfloat16
    want, got = (p.session("a fish", **SIZE).next_turn().latents for p in (pipe, low))
    assert (got - want).abs().mean() < 0.05 * want.abs().mean()


def test_a_state_of_another_model_is_refused(pipe: HeliosPipeline, tmp_path: Path) -> None:
    from heliograph.tiny import write_random_tiny

    write_random_tiny(tmp_path / "other", seed=1)
    session = HeliosPipeline.from_pretrained(tmp_path / "other").session("a fish", **SIZE)
    session.save(tmp_path / "state")
    with pytest.raises(StateError, match="another model"):
        pipe.resume(tmp_path / "state")


def test_a_video_is_saved_in_every_format(pipe: HeliosPipeline, tmp_path: Path) -> None:
    video = pipe("a fish", num_frames=40, **SIZE)
    for suffix in (".mp4", ".gif", ".png", ".npy"):
        video.save(tmp_path / f"out{suffix}")
        assert (tmp_path / f"out{suffix}").stat().st_size > 0
    assert np.array_equal(np.load(tmp_path / "out.npy"), video.frames)
