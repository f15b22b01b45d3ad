"""Representation control and history corruption."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from heliograph.config import MemoryConfig
from heliograph.errors import UserError
from heliograph.train.corrupt import (
    NO_CORRUPTION,
    Corruption,
    PastConfig,
    StartMix,
    add_noise,
    blur,
    corrupt,
    expose,
    frame_groups,
    keep_frames,
    shown_past,
    tiers_of,
)
from tests.train.examples import AS_IT_IS, example, generator, normal

WAYS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "noise": lambda x, g: add_noise(x, 1 / 3, g),
    "blur": lambda x, g: blur(x, 0.5, g),
    "exposure": lambda x, g: expose(x, (0.3, 1.7), g),
}
HARMLESS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "noise": lambda x, g: add_noise(x, 0.0, g),
    "blur": lambda x, g: blur(x, 1.0, g),
    "exposure": lambda x, g: expose(x, (1.0, 1.0), g),
}


def past(count: int = 2, side: int = 8) -> Tensor:
    """Anchor and 19 frames of history."""
    return normal(count, 16, 20, side, side)


@pytest.mark.parametrize(
    ("mix", "text", "image", "clip"),
    [(StartMix(0.4, 0.0, 0.4), 0.4, 0.0, 0.24), (StartMix(0.4, 0.1, 0.4), 0.4, 0.06, 0.216)],
    ids=["released", "corrected"],
)
def test_starts_have_the_published_shares(mix: StartMix, text: float, image: float, clip: float) -> None:
    kept = keep_frames(mix, 100_000, 20, generator())
    counts = kept[:, 1:].sum(dim=1)
    has_anchor = kept[:, 0]
    shares = {n: float(((counts == n) & has_anchor).float().mean()) for n in (18, 9, 1, 0, 19)}
    assert float((~has_anchor).float().mean()) == pytest.approx(text, abs=0.01)
    assert shares[1] == pytest.approx(image, abs=0.01)
    assert [shares[n] for n in (18, 9, 0)] == pytest.approx([clip / 3] * 3, abs=0.01)
    assert shares[19] == pytest.approx(1 - text - image - clip, abs=0.01)


def test_a_text_start_keeps_nothing_and_no_other_start_loses_the_anchor() -> None:
    kept = keep_frames(StartMix(), 10_000, 20, generator())
    assert torch.equal(kept[:, 0], ~(~kept).all(dim=1))


def test_the_newest_frames_are_kept() -> None:
    kept = keep_frames(StartMix(), 10_000, 20, generator())[:, 1:].int()
    assert bool((kept.diff(dim=1) >= 0).all())


def test_a_start_is_drawn_for_each_sample() -> None:
    batch = example(64)
    seen = shown_past(batch, PastConfig(StartMix(0.5, 0.0, 0.0), NO_CORRUPTION), generator())
    is_text = seen.flatten(1).abs().amax(dim=1) == 0
    assert 16 < int(is_text.sum()) < 48
    assert torch.equal(seen[~is_text], torch.cat([batch.anchor, batch.history], dim=2)[~is_text])


@pytest.mark.parametrize("way", WAYS)
def test_zero_frames_stay_zero_in_every_sample(way: str) -> None:
    x = past(3)
    x[0, :, :11] = 0
    x[1] = 0
    out = WAYS[way](x, generator())
    assert bool((out[0, :, :11] == 0).all()) and bool((out[1] == 0).all())
    assert not torch.equal(out[0, :, 11:], x[0, :, 11:]) and not torch.equal(out[2], x[2])


@pytest.mark.parametrize("way", HARMLESS)
def test_corruption_at_zero_strength_leaves_history_untouched(way: str) -> None:
    x = past()
    assert torch.equal(HARMLESS[way](x, generator()), x)


def test_no_corruption_leaves_history_untouched() -> None:
    x = past()
    assert torch.equal(corrupt(x, NO_CORRUPTION, generator()), x)


@pytest.mark.parametrize("way", WAYS)
def test_corruption_is_a_function_of_its_arguments(way: str) -> None:
    x = past()
    before = x.clone()
    assert torch.equal(WAYS[way](x, generator(1)), WAYS[way](x, generator(1)))
    assert not torch.equal(WAYS[way](x, generator(1)), WAYS[way](x, generator(2)))
    assert torch.equal(x, before)


def test_every_frame_has_a_noise_level_of_its_own_up_to_a_third() -> None:
    # The mean of a frame of ones is 1 − σ, to within σ/√n.
    levels = 1 - add_noise(torch.ones(4, 16, 20, 48, 48), 1 / 3, generator()).mean(dim=(1, 3, 4))
    assert float(levels.min()) > -0.01 and float(levels.max()) < 1 / 3 + 0.01
    assert float(levels.mean()) == pytest.approx(1 / 6, abs=0.03)
    # Uniform numbers up to 1/3 deviate by 0.096 within each sample.
    assert all(deviation == pytest.approx(0.096, abs=0.03) for deviation in levels.std(dim=1).tolist())


def test_noise_takes_the_place_of_what_it_covers() -> None:
    # (1 − σ)² + σ² < 1 for noise and signal of variance one, down to 1/2.
    noisy = add_noise(normal(1, 16, 20, 32, 32), 1 / 3, generator())
    variance = noisy.var(dim=(1, 3, 4)).flatten()
    assert float(variance.min()) > 0.5 and float(variance.max()) < 1.02


def test_shrinking_does_not_mix_channels_frames_or_samples() -> None:
    code = torch.arange(2 * 16 * 20).reshape(2, 16, 20, 1, 1) + 1.0
    x = code.expand(2, 16, 20, 8, 8)
    assert torch.allclose(blur(x, 0.5, generator()), x)


def test_shrinking_takes_fine_detail_away_and_leaves_the_mean() -> None:
    x = past(1, side=16)
    out = blur(x, 0.5, generator())
    assert torch.allclose(out.mean(dim=(3, 4)), x.mean(dim=(3, 4)), atol=0.06)
    assert bool((out.var(dim=(1, 3, 4)) < x.var(dim=(1, 3, 4))).all())


def test_exposure_keeps_the_mean_over_channels_of_every_cell() -> None:
    x = past()
    assert torch.allclose(expose(x, (0.3, 1.7), generator()).mean(dim=1), x.mean(dim=1), atol=1e-6)


def test_exposure_scales_each_group_of_frames_but_the_anchor() -> None:
    x = past(64)
    out = expose(x, (0.3, 1.7), generator())
    assert torch.equal(out[:, :, 0], x[:, :, 0])
    centred, wanted = out - out.mean(dim=1, keepdim=True), x - x.mean(dim=1, keepdim=True)
    factors = (centred * wanted).sum(dim=(1, 3, 4)) / wanted.square().sum(dim=(1, 3, 4))
    assert torch.allclose(centred, factors[:, None, :, None, None] * wanted, atol=1e-4)
    for group in factors[:, 1:].split(frame_groups(20)[1:], dim=1):
        assert torch.allclose(group, group[:, :1].expand_as(group), atol=1e-4)
    assert float(factors.min()) > 0.29 and float(factors.max()) < 1.71
    assert float((factors[:, 1:] < 1).float().mean()) == pytest.approx(0.5, abs=0.1)


def test_groups_of_frames_are_the_published_ones() -> None:
    assert frame_groups(20) == [1, 1, 9, 2, 7]


@pytest.mark.parametrize("num_past", [1, 2, 6, 10, 11, 19, 20, 28, 37])
def test_groups_cover_every_frame(num_past: int) -> None:
    groups = frame_groups(num_past)
    assert sum(groups) == num_past and groups[0] == 1 and min(groups) > 0


def kind_of(before: Tensor, after: Tensor) -> str:
    """How a sample with channels (s, −s) was degraded."""
    if torch.equal(before, after):
        return "clean"
    if not torch.allclose(after.sum(dim=0), torch.zeros(()), atol=1e-5):
        return "noise"
    likeness = torch.cosine_similarity(before.transpose(0, 1).flatten(1), after.transpose(0, 1).flatten(1))
    return "exposure" if bool((likeness > 0.9999).all()) else "blur"


def test_a_sample_stays_clean_or_is_degraded_in_exactly_one_way_as_often_as_asked() -> None:
    s = normal(1000, 1, 20, 4, 4)
    x = torch.cat([s, -s], dim=1)
    shares = Corruption(noise=0.4, blur=0.2, exposure=0.3, min_size=0.5)
    out = corrupt(x, shares, generator())
    kinds = [kind_of(a, b) for a, b in zip(x, out, strict=True)]
    for kind, share in (("noise", 0.4), ("blur", 0.2), ("exposure", 0.3), ("clean", 0.1)):
        assert kinds.count(kind) / 1000 == pytest.approx(share, abs=0.05)


def test_the_first_choice_is_whether_a_sample_stays_clean() -> None:
    x = past(400, side=2)
    is_clean = [
        [torch.equal(a, b) for a, b in zip(x, corrupt(x, mix, generator()), strict=True)]
        for mix in (Corruption(0.9, 0.0, 0.0), Corruption(0.0, 0.0, 0.9), Corruption(0.45, 0.0, 0.45))
    ]
    assert is_clean[0] == is_clean[1] == is_clean[2]
    assert sum(is_clean[0]) / 400 == pytest.approx(0.1, abs=0.04)


def test_an_untouched_past_is_read_in_its_tiers() -> None:
    batch = example()
    tiers = tiers_of(shown_past(batch, AS_IT_IS, generator()), MemoryConfig())
    assert torch.equal(tiers.long.latents, batch.history[:, :, :16])
    assert torch.equal(tiers.mid.latents, batch.history[:, :, 16:18])
    assert torch.equal(tiers.short.latents, torch.cat([batch.anchor, batch.history[:, :, 18:]], dim=2))
    assert tiers.chunk_frames == tuple(range(20, 29))


def test_data_of_another_memory_are_refused() -> None:
    batch = example()
    with pytest.raises(UserError, match="the data hold 10 frames of history, but the model remembers 19"):
        tiers_of(shown_past(replace(batch, history=batch.history[:, :, :10]), AS_IT_IS, generator()), MemoryConfig())


@pytest.mark.parametrize(
    "make",
    [
        lambda: StartMix(1.2, 0.0, 0.0),
        lambda: Corruption(noise=0.9, blur=0.2),
        lambda: Corruption(noise=-0.1),
        lambda: Corruption(min_size=0.0),
        lambda: Corruption(max_sigma=2.0),
        lambda: Corruption(factors=(1.1, 1.7)),
    ],
)
def test_impossible_settings_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(UserError):
        make()
