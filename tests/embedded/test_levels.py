"""What the past tells each level: the measure, and that a trained model uses what it is shown."""

from pathlib import Path

import torch
from torch import Tensor

from heliograph.embedded.levels import PASTS, Clips, LevelsPlan, errors_of, level_errors, near_subjects, shown
from heliograph.flow.schedule import level_ranges
from heliograph.model.transformer import HeliosTransformer3DModel
from heliograph.train.multiscale import MultiscaleConfig, level_lines
from heliograph.train.start import NetworkSizes, random_network

TEACHER = Path(__file__).parents[2] / "runs" / "teacher"


def silent() -> HeliosTransformer3DModel:
    """A network whose velocity is zero everywhere, as training begins."""
    sizes = NetworkSizes(num_layers=1, num_attention_heads=1, attention_head_dim=12, ffn_dim=8, rope_dim=(4, 4, 4))
    return random_network({"text_dim": 5, "freq_dim": 8}, sizes, 0).eval()


def clips(near: Tensor) -> Clips:
    draw = torch.Generator().manual_seed(1)
    chunk, past = (torch.randn(2, 16, frames, 8, 8, generator=draw) for frames in (9, 20))
    return Clips(chunk, past, torch.zeros(2, 4, 5), near)


def test_the_anchor_and_the_newest_frames_are_shown_and_for_none_nothing() -> None:
    past = torch.arange(1.0, 21.0).reshape(1, 1, 20, 1, 1)
    assert shown(past, 0).count_nonzero() == 0
    assert shown(past, 1).flatten().nonzero().flatten().tolist() == [0, 19]
    assert shown(past, 3).flatten().nonzero().flatten().tolist() == [0, 17, 18, 19]
    assert torch.equal(shown(past, 19), past)


def test_near_a_subject_are_its_cells_and_those_beside_them_in_space_and_time() -> None:
    shares = torch.zeros(1, 9, 8, 8)
    shares[0, 4, 3, 3], shares[0, 4, 7, 7] = 0.5, 0.01
    near = near_subjects(shares)
    assert near.shape == (1, 1, 9, 8, 8)
    assert near.sum() == 27
    assert near[0, 0, 3:6, 2:5, 2:5].min() == 1


def test_the_error_of_a_network_that_says_nothing_is_the_square_of_the_slope() -> None:
    near = torch.zeros(2, 1, 9, 8, 8)
    near[:, :, :, :, :4] = 1
    given = clips(near)
    found = errors_of(silent(), given, 19, 4, torch.Generator().manual_seed(3))
    noise = torch.randn(given.chunk.shape, generator=torch.Generator().manual_seed(3))
    lines = level_lines(given.chunk, noise, level_ranges(MultiscaleConfig().schedule))
    for level, line in enumerate(lines):
        half = line.slope.shape[-1] // 2
        for clip in range(2):
            left = line.slope[clip, ..., :half].square().mean()
            right = line.slope[clip, ..., half:].square().mean()
            assert torch.allclose(torch.tensor(found[clip][level]), torch.stack([left, right]), rtol=1e-4)


def test_a_clip_without_a_subject_has_no_error_near_one() -> None:
    found = errors_of(silent(), clips(torch.zeros(2, 1, 9, 8, 8)), 19, 1, torch.Generator().manual_seed(3))
    assert torch.tensor(found)[..., 0].isnan().all()
    assert torch.tensor(found)[..., 1].isfinite().all()


def test_the_embedded_models_teacher_errs_less_with_a_past_than_without() -> None:
    found = level_errors(TEACHER, LevelsPlan(num_clips=4, num_points=2, batch_size=2), lambda _: None)
    assert found["num"] == 4
    near = [[found["errors"][past][level]["near"]["mean"] for past in PASTS] for level in range(3)]
    for nothing, newest, _, whole in near[:2]:
        assert nothing > max(newest, whole)
    assert near[2][0] > near[2][-1]  # the finest level owes the coarser ones more than the past
