"""One forward against diffusers' HeliosTransformer3DModel on the same weights, float32 and bfloat16."""

import itertools

import diffusers
import pytest
import torch
from torch import Tensor

from heliograph.memory import Tiers
from heliograph.model.memo import Memos
from heliograph.model.transformer import HeliosTransformer3DModel
from tests.small import SIZES, randomise, relative_error, wave, wave_tiers

SWITCHES = [
    {
        "guidance_cross_attn": text_for_chunk_only,
        "zero_history_timestep": history_is_clean,
        "cross_attn_norm": norm,
        "is_amplify_history": mode is not None,
        "history_scale_mode": mode or "per_head",
    }
    for text_for_chunk_only, history_is_clean, norm, mode in itertools.product(
        (True, False), (True, False), (True, False), (None, "per_head", "scalar")
    )
]


def pair(**changes: object) -> tuple[HeliosTransformer3DModel, diffusers.HeliosTransformer3DModel]:
    """Ours and theirs with the same random weights."""
    config = {**SIZES, **changes}
    theirs = diffusers.HeliosTransformer3DModel(**config).eval()
    randomise(theirs)
    ours = HeliosTransformer3DModel(**config).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def run_theirs(model: torch.nn.Module, x: Tensor, timestep: Tensor, text: Tensor, tiers: Tiers | None) -> Tensor:
    """The same call in diffusers' words."""
    history = {}
    if tiers is not None:
        history = {
            "indices_hidden_states": torch.tensor([tiers.chunk_frames]),
            **{
                f"indices_latents_history_{n}": torch.tensor([getattr(tiers, n).frames])
                for n in ("short", "mid", "long")
            },
            **{f"latents_history_{n}": getattr(tiers, n).latents.to(x.dtype) for n in ("short", "mid", "long")},
        }
    return model(x, timestep, text, return_dict=False, **history)[0]


def cast(tiers: Tiers, dtype: torch.dtype) -> Tiers:
    """Tiers in another dtype."""
    parts = {n: type(t)(t.latents.to(dtype), t.frames) for n, t in vars(tiers).items() if n != "chunk_frames"}
    return Tiers(chunk_frames=tiers.chunk_frames, **parts)


def mean_error(got: Tensor, want: Tensor) -> float:
    """Mean absolute difference."""
    return float((got.float() - want).abs().mean())


@pytest.mark.parametrize("switches", SWITCHES, ids=lambda s: "-".join(str(v) for v in s.values()))
@torch.no_grad()
def test_every_combination_of_switches_gives_the_velocity_of_diffusers(switches: dict[str, object]) -> None:
    ours, theirs = pair(**switches)
    text, tiers = wave((1, 5, 32), 0.5), wave_tiers(12, 20)
    for size, timestep in (((12, 20), 500.0), ((6, 10), 833.0), ((4, 6), 0.0)):
        x = wave((1, 16, 9, *size), 0.3)
        want = run_theirs(theirs, x, torch.tensor([timestep]), text, tiers)
        assert relative_error(ours(x, timestep, text, tiers), want) < 1e-5


@pytest.mark.parametrize("size", [(2, 2), (6, 14), (10, 6), (14, 18), (20, 12)], ids=str)
@torch.no_grad()
def test_odd_token_grids_pad_the_tiers_as_diffusers_does(size: tuple[int, int]) -> None:
    ours, theirs = pair()
    text, tiers = wave((2, 5, 32), 0.5), wave_tiers(*size, batch=2)
    x, timesteps = wave((2, 16, 9, *size), 0.3), torch.tensor([500, 77])
    want = run_theirs(theirs, x, timesteps, text, tiers)
    assert relative_error(ours(x, timesteps.float(), text, tiers), want) < 1e-5


@pytest.mark.parametrize("history_is_clean", [True, False])
@torch.no_grad()
def test_no_history_gives_the_velocity_of_diffusers(*, history_is_clean: bool) -> None:
    for has_patches in (True, False):
        ours, theirs = pair(zero_history_timestep=history_is_clean, has_multi_term_memory_patch=has_patches)
        x, text = wave((1, 16, 9, 12, 20), 0.3), wave((1, 5, 32), 0.5)
        want = run_theirs(theirs, x, torch.tensor([500.0]), text, None)
        assert relative_error(ours(x, 500.0, text), want) < 1e-5


@torch.no_grad()
def test_remembered_values_do_not_change_the_velocity() -> None:
    ours, _ = pair()
    tiers, memos = wave_tiers(12, 20), Memos()
    text = wave((1, 5, 32), 0.5)
    for timestep, size in itertools.product((999.0, 512.0, 3.0), ((12, 20), (6, 10))):
        x = wave((1, 16, 9, *size), timestep)
        assert torch.equal(ours(x, timestep, text, tiers, memos), ours(x, timestep, text, tiers))


@pytest.mark.parametrize("size", [(12, 20), (6, 10)], ids=str)
@torch.no_grad()
def test_bfloat16_error_is_no_larger_than_that_of_diffusers(size: tuple[int, int]) -> None:
    # Summed over seeds: at two layers, one draw of rounding errors says little about which of two is smaller.
    errors = {"ours": 0.0, "theirs": 0.0}
    for seed in range(6):
        _, exact = pair()
        randomise(exact, seed, 0.2)
        state = exact.state_dict()
        x, text, tiers = wave((1, 16, 9, *size), seed), wave((1, 5, 32), 0.5), wave_tiers(12, 20)
        want = run_theirs(exact, x, torch.tensor([500]), text, tiers)
        ours, theirs = pair()
        for model in (ours, theirs):
            model.load_state_dict(state)
            for name, parameter in model.named_parameters():
                islands = {"time_embedder", "scale_shift_table", "norm2"}
                if not islands & set(name.split(".")):
                    parameter.data = parameter.data.bfloat16()
        low = (x.bfloat16(), text.bfloat16(), cast(tiers, torch.bfloat16))
        errors["ours"] += mean_error(ours(low[0], 500.0, low[1], low[2]), want)
        errors["theirs"] += mean_error(run_theirs(theirs, low[0], torch.tensor([500]), low[1], low[2]), want)
    assert errors["ours"] <= errors["theirs"] * 1.0001


def test_tensor_names_and_sizes_of_the_14b_model_are_the_released_ones() -> None:
    with torch.device("meta"):
        ours, theirs = HeliosTransformer3DModel(), diffusers.HeliosTransformer3DModel()
    shapes = {name: tuple(t.shape) for name, t in ours.state_dict().items()}
    assert shapes == {name: tuple(t.shape) for name, t in theirs.state_dict().items()}
    assert len(shapes) == 1101
    assert sum(t.numel() for t in ours.state_dict().values()) == 14_312_427_584
