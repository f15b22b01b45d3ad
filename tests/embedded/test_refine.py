"""The refiner's training: examples as the model makes them, steps that lower the loss, a stop that loses nothing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from click.testing import CliRunner

from heliograph.checkpoint import find_model
from heliograph.data.world_cache import CacheInfo, code_digest, missing_parts
from heliograph.embedded.__main__ import commands
from heliograph.embedded.making import UNFINISHED
from heliograph.embedded.pack import Decoding, Native, pack
from heliograph.embedded.refine import (
    Examples,
    RefineConfig,
    RefinerTraining,
    cached_clips,
    finished,
    refined_psnr,
    with_refiner,
)
from heliograph.embedded.render import open_codec, render_part
from heliograph.embedded.sharpen import PictureCritic, SharpenConfig, SharpenTraining
from heliograph.errors import UserError
from heliograph.memory import History
from heliograph.pipeline import HeliosPipeline

Training = TypeVar("Training", bound=RefinerTraining)

CONFIG = RefineConfig(60, num_chunks=6, batch_size=2, num_groups=6, learning_rate=1e-3, warmup_steps=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model without a refiner."""
    folder = tmp_path_factory.mktemp("model") / "model"
    pack(find_model("tiny"), Decoding(), folder, Native(128, 128, (1, 1, 2), None, 1.0))
    with_refiner(open_codec("tiny").autoencoder, 0).save_pretrained(folder / "vae")
    return folder


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of six clips of two chunks."""
    folder = tmp_path_factory.mktemp("latents")
    info = CacheInfo(6, 2, 128, 128, code_digest(open_codec("tiny")))
    for part in missing_parts(folder, info):
        render_part(folder, part, info, "tiny")
    return folder


@pytest.fixture(scope="module")
def examples(latents: Path) -> Examples:
    engine = HeliosPipeline.from_pretrained("tiny", device="cpu", dtype="float32").engine
    return Examples.make(engine, cached_clips(latents), CONFIG)


def test_more_examples_than_clips_are_refused_with_what_to_do(latents: Path) -> None:
    engine = HeliosPipeline.from_pretrained("tiny", device="cpu", dtype="float32").engine
    source = cached_clips(latents)
    with pytest.raises(UserError, match="use --chunks"):
        Examples.make(engine, source, replace(CONFIG, num_chunks=source.info.num_clips + 1))


def training(examples: Examples) -> RefinerTraining:
    return RefinerTraining(with_refiner(open_codec("tiny").autoencoder, 16), CONFIG, examples)


def test_what_the_model_makes_lies_near_the_truth_and_is_not_it(examples: Examples) -> None:
    apart = (examples.made - examples.true).square().mean(dim=(1, 2, 3, 4)).sqrt()
    assert bool((apart <= CONFIG.largest_error).all()) and bool((apart > 0.05).any())
    assert examples.frames.shape == (6, 33, 3, 128, 128) and examples.shares.shape == (6, 9, 16, 16)


def test_fewer_levels_left_to_the_model_leave_more_of_the_truth(latents: Path) -> None:
    engine = HeliosPipeline.from_pretrained("tiny", device="cpu", dtype="float32").engine
    source = cached_clips(latents)
    _, true, _, _ = source.example(0, 0)
    empty = History.empty((1, 16, 8, 8), engine.memory)
    caption = source.world.caption(source.world.record(0), 1)
    errors = []
    for num_levels in (1, 2, 3):
        made = finished(engine, true[None], empty, caption, torch.Generator().manual_seed(0), num_levels)
        errors.append(float((made - true).square().mean()))
    assert 0 < errors[0] < errors[1] < errors[2]


def test_steps_lower_the_loss_and_change_the_refiner_alone(examples: Examples) -> None:
    own = training(examples)
    others = {name: p.clone() for name, p in own.model.named_parameters() if not name.startswith("refiner.")}
    before = [own.take_step() for _ in range(50)][:4]
    own.step = 0
    after = [own.take_step() for _ in range(4)]  # the same batches again
    assert sum(after) < 0.98 * sum(before)
    assert all(torch.equal(own.model.get_parameter(name), value) for name, value in others.items())


def whole_and_stopped(make: Callable[[], Training], file: Path) -> tuple[Training, Training]:
    """Seven steps at once, and as five that are stored and two by another process's training."""
    whole, first, second = make(), make(), make()
    for own, steps in ((whole, 7), (first, 5)):
        for _ in range(steps):
            own.take_step()
    first.save(file)
    second.resume(file)
    for _ in range(2):
        second.take_step()
    return whole, second


def test_a_stopped_training_goes_on_as_it_would_have(examples: Examples, tmp_path: Path) -> None:
    whole, stopped = whole_and_stopped(lambda: training(examples), tmp_path / "state.pt")
    for ours, theirs in zip(stopped.refiner.parameters(), whole.refiner.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_trained_refiner_is_packed_and_decodes(examples: Examples, model: Path, tmp_path: Path) -> None:
    own = training(examples)
    for _ in range(3):
        own.take_step()
    own.save(tmp_path / "refiner.pt")
    pack(model, Decoding(refiner=tmp_path / "refiner.pt"), tmp_path / "packed", Native(128, 128, (1, 1, 2), None, 1.0))
    packed = open_codec(str(tmp_path / "packed")).autoencoder
    plain = open_codec(str(model)).autoencoder
    z = 2 * examples.true[:1]
    want = own.refiner(plain.painted(z), plain.decoder.around(plain.normalised(z)))[:, :, 3:].clamp(-1, 1)
    shown = packed.decode(z).sample
    assert float((shown - want).abs().max()) < 0.02  # stored in bfloat16
    assert float((shown - plain.decode(z).sample).abs().mean()) > 1e-4


def test_the_phase_says_that_it_is_not_done_until_it_is(model: Path, latents: Path, tmp_path: Path) -> None:
    call = ["refine", str(model), str(latents), str(tmp_path / "state.pt"), "--steps", "2", "--chunks", "2"]
    first = CliRunner().invoke(commands, [*call, "--seconds", "0"])
    assert first.exit_code == UNFINISHED and "run it again" in first.output
    assert CliRunner().invoke(commands, call).exit_code == 0
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 2


def test_the_phase_goes_on_with_a_refiner_that_the_model_has(latents: Path, tmp_path: Path) -> None:
    state = tmp_path / "state.pt"
    call = ["refine", "tiny", str(latents), str(state), "--steps", "2", "--chunks", "2", "--seconds", "0"]
    assert CliRunner().invoke(commands, call).exit_code == UNFINISHED
    own = open_codec("tiny").autoencoder.refiner
    assert own is not None
    stored = torch.load(state, weights_only=True)["refiner"]
    assert all(torch.equal(stored[name], value) for name, value in own.state_dict().items())


def test_decibels_are_of_what_is_shown_before_and_after(examples: Examples) -> None:
    own = training(replace(examples))
    before, after = refined_psnr(own, range(2))
    assert 15 < before < 40 and before == pytest.approx(after, abs=1e-6)


SHARP = SharpenConfig(40, num_chunks=6, batch_size=2, num_groups=4, critic_dim=8, critic_lead=3, warmup_steps=1)


def sharpening(examples: Examples, config: SharpenConfig = SHARP) -> SharpenTraining:
    return SharpenTraining(with_refiner(open_codec("tiny").autoencoder, 16), config, examples)


def test_the_critic_learns_alone_at_first_and_the_average_follows_slowly(examples: Examples) -> None:
    own = sharpening(examples)
    start = {name: value.clone() for name, value in own.refiner.state_dict().items()}
    critic = own.critic.opinion.weight.detach().clone()
    for _ in range(3):
        own.take_step()
    assert all(torch.equal(own.refiner.state_dict()[name], value) for name, value in start.items())
    assert not torch.equal(own.critic.opinion.weight, critic)
    for _ in range(3):
        own.take_step()
    moved = (own.refiner.leave.weight - start["leave.weight"]).abs().max()
    averaged = (own.average["leave.weight"] - start["leave.weight"]).abs().max()
    assert 0 < float(averaged) < 0.1 * float(moved)


def test_the_critic_learns_to_tell_edges_from_what_is_soft(examples: Examples) -> None:
    own = sharpening(examples, replace(SHARP, max_steps=200, critic_dim=16, learning_rate=3e-3))
    own.step = 1  # the rate is warm
    edges = torch.randn(6, 12, 8, 8, generator=torch.Generator().manual_seed(0)).sign()
    edges = edges.repeat_interleave(4, dim=-1).repeat_interleave(4, dim=-2)
    soft = torch.nn.functional.avg_pool2d(edges, 5, 1, 2)
    for _ in range(60):
        own._update_critic(soft[:4], soft[:4], edges[:4], torch.ones(4, 1, 8, 8))
    with torch.no_grad():
        of_true, of_made = (own.critic(picture, soft[4:])[0].mean() for picture in (edges[4:], soft[4:]))
    assert float(of_true) > float(of_made) + 0.5


def test_an_opinion_is_of_a_patch_and_of_what_was_painted_there() -> None:
    torch.manual_seed(0)
    critic = PictureCritic(8).eval()
    picture, painted = torch.randn(1, 12, 128, 128), torch.randn(1, 12, 128, 128)
    with torch.no_grad():
        before, features = critic(picture, painted)
        assert before.shape == (1, 1, 32, 32) and len(features) == 4
        picture[..., :8, :8] += 1
        nearby = critic(picture, painted)[0]
        assert not torch.equal(nearby[..., :2, :2], before[..., :2, :2])
        assert torch.equal(nearby[..., 12:, 12:], before[..., 12:, 12:])
        painted[..., :8, :8] += 1
        assert not torch.equal(critic(picture, painted)[0][..., :2, :2], nearby[..., :2, :2])


def test_frames_that_show_a_subject_are_looked_at_first(examples: Examples) -> None:
    shares = torch.zeros(60)
    shares[::6] = 1
    picked = [sharpening(examples).pick(shares, torch.Generator().manual_seed(seed)) for seed in range(20)]
    found = sum(int((each % 6 == 0).sum()) for each in picked)
    assert found > 0.9 * 20 * SHARP.num_groups


def test_a_stopped_sharpening_goes_on_as_it_would_have(examples: Examples, tmp_path: Path) -> None:
    whole, stopped = whole_and_stopped(lambda: sharpening(examples), tmp_path / "state.pt")
    assert all(torch.equal(stopped.average[name], value) for name, value in whole.average.items())
    assert torch.equal(stopped.critic.opinion.weight, whole.critic.opinion.weight)


def test_sharpening_starts_from_a_refiner_and_what_it_stores_is_packed(
    examples: Examples, model: Path, latents: Path, tmp_path: Path
) -> None:
    refined, state = tmp_path / "refined.pt", tmp_path / "state.pt"
    own = training(examples)
    own.take_step()
    own.save(refined)
    call = ["sharpen", str(model), str(latents), str(refined), str(state), "--steps", "1", "--chunks", "2"]
    result = CliRunner().invoke(commands, call)
    assert result.exit_code == 0, result.output
    stored = torch.load(state, weights_only=True)["refiner"]
    assert torch.allclose(stored["leave.weight"], own.refiner.leave.weight, atol=1e-6)  # the critic's step alone
    pack(model, Decoding(refiner=state), tmp_path / "packed", Native(128, 128, (1, 1, 2), None, 1.0))
    assert open_codec(str(tmp_path / "packed")).autoencoder.refiner is not None
    wrong = CliRunner().invoke(commands, [*call[:3], str(tmp_path / "none.pt"), *call[4:]])
    assert wrong.exit_code != 0 and "run `refine` first" in str(wrong.output) + str(wrong.exception)
