"""The transformer: golden outputs, who sees what, gradients, adapters and folders."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn

from heliograph.errors import CheckpointError
from heliograph.memory import Tier, Tiers
from heliograph.model.attention import Attention, attend_by_products
from heliograph.model.packed import Part
from heliograph.model.transformer import HeliosTransformer3DModel
from tests.small import SIZES, randomise, relative_error, small_transformer, wave, wave_tiers

TEXT, OTHER_TEXT = wave((1, 5, 32), 0.5), wave((1, 5, 32), 2.5)
LINEARS = [
    *(f"attn{i}.{name}" for i in (1, 2) for name in ("to_q", "to_k", "to_v", "to_out.0")),
    *("ffn.net.0.proj", "ffn.net.2"),
]
"""Linear layers of a block, by their released names."""

EMBEDDERS = [
    *(f"condition_embedder.{part}_embedder.linear_{i}" for part in ("time", "text") for i in (1, 2)),
    "condition_embedder.time_proj",
    "proj_out",
]
PATCHES = ["patch_embedding", "patch_short", "patch_mid", "patch_long"]
ADAPTED = [*(f"blocks.{i}.{name}" for i in range(2) for name in LINEARS), *EMBEDDERS]
ISLANDS = {"time_embedder", "scale_shift_table", "norm2"}
"""Parts of tensor names that stay float32 in every dtype."""


def random_transformer(**changes: object) -> HeliosTransformer3DModel:
    """A transformer in which no path is multiplied by zero."""
    model = HeliosTransformer3DModel(**{**SIZES, **changes}).eval()
    randomise(model)
    return model


def chunk(height: int = 4, width: int = 6, batch: int = 1) -> Tensor:
    """A noisy chunk."""
    return wave((batch, 16, 9, height, width), 0.3)


def seen_at(model: nn.Module, name: str, run: Callable[[], object]) -> list[Tensor]:
    """First inputs of the module `name` during `run`."""
    seen: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    with torch.no_grad():
        run()
    handle.remove()
    return seen


def left_by(model: nn.Module, name: str, run: Callable[[], object]) -> list[Tensor]:
    """Outputs of the module `name` during `run`."""
    seen: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_hook(lambda _, args, out: seen.append(out.clone()))
    with torch.no_grad():
        run()
    handle.remove()
    return seen


# Golden values


@pytest.mark.parametrize(
    ("size", "timestep", "mean", "std", "largest", "first", "last"),
    [
        (
            *((12, 20), 500.0, 0.020486, 0.777768, 1.447476),
            *([1.040736, -1.205641, 0.843140, -1.024868], [0.359677, 0.705201, 0.457600]),
        ),
        (
            *((6, 10), 833.0, 0.017976, 0.732286, 1.270281),
            *([0.741561, -0.981726, 0.823327, -0.999351], [0.269721, 0.720960, 0.330159]),
        ),
        (
            *((4, 6), 0.0, 0.018500, 0.701698, 1.222166),
            *([0.794867, -0.914970, 0.775323, -0.931744], [0.311277, 0.629684, 0.277075]),
        ),
    ],
    ids=["12x20-500", "6x10-833", "4x6-0"],
)
@torch.no_grad()
def test_velocity_of_the_golden_weights_is_the_golden_one(
    size: tuple[int, int], timestep: float, mean: float, std: float, largest: float, first: list, last: list
) -> None:
    out = small_transformer()(chunk(*size), timestep, TEXT, wave_tiers(12, 20))
    assert float(out.mean()) == pytest.approx(mean, abs=1e-5)
    assert float(out.std()) == pytest.approx(std, abs=1e-5)
    assert float(out.abs().max()) == pytest.approx(largest, abs=1e-5)
    assert out[0, 0, 0, 0, :4].tolist() == pytest.approx(first, abs=1e-5)
    assert out[0, 15, 8, -1, -3:].tolist() == pytest.approx(last, abs=1e-5)


@torch.no_grad()
def test_velocity_of_the_golden_weights_without_history_is_the_golden_one() -> None:
    out = small_transformer()(chunk(12, 20), 500.0, TEXT)
    assert float(out.mean()) == pytest.approx(0.020823, abs=1e-5)
    assert float(out.std()) == pytest.approx(0.781035, abs=1e-5)
    assert out[0, 0, 0, 0, :4].tolist() == pytest.approx([1.055037, -1.203694, 0.857215, -1.021489], abs=1e-5)


def test_the_golden_model_has_75_tensors_under_the_released_names() -> None:
    state = small_transformer().state_dict()
    assert len(state) == 75
    assert {f"{name}.weight" for name in (*ADAPTED, *PATCHES)} <= set(state)


def test_the_layers_of_a_model_are_those_that_adapters_of_the_released_training_name() -> None:
    model = random_transformer()
    assert sorted(n for n, m in model.named_modules() if isinstance(m, nn.Linear)) == sorted(ADAPTED)
    assert [n for n, m in model.named_modules() if isinstance(m, nn.Conv3d)] == PATCHES


# Who sees what


@pytest.mark.parametrize("history_is_clean", [True, False])
def test_history_tokens_see_timestep_0_where_the_model_was_trained_so(*, history_is_clean: bool) -> None:
    model, tiers = random_transformer(zero_history_timestep=history_is_clean), wave_tiers(8, 8)
    num_history = 4 * 1 * 1 + 1 * 2 * 2 + 2 * 4 * 4

    def entering(timestep: float) -> tuple[Tensor, Tensor]:
        (tokens,) = seen_at(model, "blocks.0.attn1", lambda: model(chunk(), timestep, TEXT, tiers))
        return tokens[:, :num_history], tokens[:, num_history:]

    (past, now), (past_later, now_later) = entering(900.0), entering(100.0)
    assert torch.equal(past, past_later) == history_is_clean
    assert not torch.allclose(now, now_later)
    past_at_zero, _ = entering(0.0)
    assert torch.equal(past, past_at_zero) == history_is_clean


@pytest.mark.parametrize("guides_chunk_only", [True, False])
def test_text_reaches_chunk_tokens_only_where_the_model_was_trained_so(*, guides_chunk_only: bool) -> None:
    model = random_transformer(guidance_cross_attn=guides_chunk_only)
    tiers, num_history = wave_tiers(8, 8), 40

    def leaving(text: Tensor) -> tuple[Tensor, Tensor]:
        (tokens,) = left_by(model, "blocks.0", lambda: model(chunk(), 500.0, text, tiers))
        return tokens[:, :num_history], tokens[:, num_history:]

    (past, now), (past_other, now_other) = leaving(TEXT), leaving(OTHER_TEXT)
    assert torch.equal(past, past_other) == guides_chunk_only
    assert not torch.allclose(now, now_other)


def test_after_the_last_block_only_the_chunk_is_left_and_it_is_what_all_tokens_would_have_given() -> None:
    model, tiers = random_transformer(), wave_tiers(8, 8)
    seen: list[tuple[Any, ...]] = []
    last = model.get_submodule("blocks.1")
    handle = last.register_forward_pre_hook(lambda _, args: seen.append(args))
    (left,) = left_by(model, "blocks.1", lambda: model(chunk(), 500.0, TEXT, tiers))
    handle.remove()
    tokens, layout, rotary, text, leaving, past = seen[0]
    assert leaving.lengths == (left.shape[1],) == layout.lengths[1:]
    with torch.no_grad():
        whole = last(tokens, layout, rotary, text, layout, past)
    assert whole.shape[1] == tokens.shape[1] == left.shape[1] + 40
    assert torch.allclose(left, whole[:, 40:], atol=1e-6)


def test_tokens_run_long_mid_short_chunk() -> None:
    model, tiers = random_transformer(), wave_tiers(8, 8)

    def run(history: Tiers) -> Tensor:
        return seen_at(model, "blocks.0", lambda: model(chunk(), 500.0, TEXT, history))[0]

    before = run(tiers)
    for name, rows in (("long", slice(0, 4)), ("mid", slice(4, 8)), ("short", slice(8, 40))):
        tier = getattr(tiers, name)
        changed = (run(replace(tiers, **{name: Tier(tier.latents + 1, tier.frames)})) != before).any(dim=-1)[0]
        assert changed[rows].all()
        assert int(changed.sum()) == rows.stop - rows.start


@pytest.mark.parametrize("name", ["long", "mid", "short"])
@torch.no_grad()
def test_every_tier_and_its_frame_indices_change_the_velocity(name: str) -> None:
    model, tiers = random_transformer(), wave_tiers(8, 8)
    tier, before = getattr(tiers, name), model(chunk(), 500.0, TEXT, tiers)
    other_latents = Tier(tier.latents + 1, tier.frames)
    other_frames = Tier(tier.latents, tuple(f + 7 for f in tier.frames))
    for changed in (other_latents, other_frames):
        assert not torch.allclose(model(chunk(), 500.0, TEXT, replace(tiers, **{name: changed})), before)


@torch.no_grad()
def test_moving_all_frame_indices_together_changes_nothing() -> None:
    model, tiers = random_transformer(), wave_tiers(8, 8)

    def moved(tier: Tier) -> Tier:
        return Tier(tier.latents, tuple(f + 5 for f in tier.frames))

    later = Tiers(moved(tiers.long), moved(tiers.mid), moved(tiers.short), tuple(f + 5 for f in tiers.chunk_frames))
    assert relative_error(model(chunk(), 500.0, TEXT, later), model(chunk(), 500.0, TEXT, tiers)) < 1e-4


@torch.no_grad()
def test_samples_of_a_batch_do_not_see_one_another() -> None:
    model, x = random_transformer(), chunk(batch=2)
    text, tiers = wave((2, 5, 32), 0.5), wave_tiers(8, 8, batch=2)
    together = model(x, torch.tensor([900.0, 30.0]), text, tiers)
    for row, timestep in enumerate((900.0, 30.0)):
        one = slice(row, row + 1)
        parts = {n: Tier(getattr(tiers, n).latents[one], getattr(tiers, n).frames) for n in ("long", "mid", "short")}
        alone = model(x[one], timestep, text[one], replace(tiers, **parts))
        assert relative_error(together[one], alone) < 1e-5


@torch.no_grad()
def test_one_plain_timestep_is_the_same_as_one_per_sample() -> None:
    model, text = random_transformer(), wave((2, 5, 32), 0.5)
    x, tiers = chunk(batch=2), wave_tiers(8, 8, batch=2)
    assert relative_error(model(x, 640.0, text, tiers), model(x, torch.tensor([640.0, 640.0]), text, tiers)) < 1e-5


@torch.no_grad()
def test_history_keys_are_amplified_by_a_learnt_factor_where_asked() -> None:
    model, tiers = random_transformer(is_amplify_history=True), wave_tiers(8, 8)
    plain = random_transformer()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if "history_key_scale" not in k})
    for block in model.blocks:
        block.attn1.history_key_scale.fill_(-100.0)  # factor 1
    assert relative_error(model(chunk(), 500.0, TEXT, tiers), plain(chunk(), 500.0, TEXT, tiers)) < 1e-5
    for block in model.blocks:
        block.attn1.history_key_scale.fill_(100.0)  # factor 10
    assert relative_error(model(chunk(), 500.0, TEXT, tiers), plain(chunk(), 500.0, TEXT, tiers)) > 1e-3


# Several chunks at once, and what blocks leave


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("has_history", [True, False])
@torch.no_grad()
def test_chunks_packed_into_one_pass_do_not_see_one_another(*, has_history: bool, count: int) -> None:
    model, tiers = random_transformer(), wave_tiers(8, 8) if has_history else None
    parts = [Part(chunk(8, 8), 900.0), Part(chunk(4, 4), torch.tensor([700.0])), Part(chunk(2, 2), 30.0)][:count]
    packed = model.forward_packed(parts, TEXT, tiers)
    for part, got in zip(parts, packed, strict=True):
        assert relative_error(got, model(part.x, part.timestep, TEXT, tiers)) < 1e-5


@torch.no_grad()
def test_features_are_the_chunk_tokens_that_blocks_leave() -> None:
    model, tiers = random_transformer(), wave_tiers(8, 8)
    left: list[Tensor] = []
    model.blocks[1].register_forward_hook(lambda _, args, out: left.append(out[:, -54:]))
    velocity, features = model.forward_with_features(chunk(), 500.0, TEXT, tiers, (1, 0))
    assert torch.equal(velocity, model(chunk(), 500.0, TEXT, tiers))
    assert [tuple(f.shape) for f in features] == [(1, 24, 9, 2, 3)] * 2
    assert torch.equal(features[0].flatten(2).mT, left[0])
    assert not torch.allclose(features[0], features[1])


# Memory patches


@torch.no_grad()
def test_a_model_without_memory_patches_refuses_a_history() -> None:
    model = random_transformer(has_multi_term_memory_patch=False)
    assert model(chunk(), 500.0, TEXT).shape == chunk().shape
    with pytest.raises(CheckpointError, match=r"no memory patches.*tiers=None"):
        model(chunk(), 500.0, TEXT, wave_tiers(8, 8))


@torch.no_grad()
def test_new_tier_patches_see_a_still_history_as_the_patch_embedding_does() -> None:
    model = random_transformer()
    model.init_tier_patches()
    still = torch.ones(1, 16, 4, 8, 8) * wave((1, 16, 1, 1, 1), 0.7)
    token = model.patch_embedding(still)[0, :, 0, 0, 0]
    for name in PATCHES[1:]:
        out = model.get_submodule(name)(still)
        assert torch.allclose(out, token.reshape(1, -1, 1, 1, 1).expand_as(out), atol=1e-5)


# Gradients


def gradients(model: HeliosTransformer3DModel) -> dict[str, Tensor]:
    """Gradient of every parameter, of a loss that reads the whole velocity."""
    model.zero_grad()
    out = model(chunk(), torch.tensor([500.0]), TEXT, wave_tiers(8, 8))
    (out * wave(tuple(out.shape), 2.2)).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_every_parameter_has_a_gradient() -> None:
    model = random_transformer()
    found = gradients(model)
    assert set(found) == set(model.state_dict())
    silent = {name for name, g in found.items() if float(g.abs().max()) < 1e-6}
    assert silent == set()


def test_gradient_checkpointing_gives_the_same_gradients_and_runs_blocks_again() -> None:
    model = random_transformer().train()
    want, calls = gradients(model), []
    model.enable_gradient_checkpointing()
    for block in model.blocks:
        block.register_forward_pre_hook(lambda *_: calls.append(1))
    got = gradients(model)
    assert len(calls) == 4
    assert set(got) == set(want)
    assert all(torch.equal(got[name], want[name]) for name in want)


def test_gradient_checkpointing_is_idle_without_gradients() -> None:
    model = random_transformer()
    model.enable_gradient_checkpointing()
    assert len(seen_at(model, "blocks.0", lambda: model(chunk(), 500.0, TEXT, wave_tiers(8, 8)))) == 1


# Adapters


def adapter(layers: list[str]) -> LoraConfig:
    """A low-rank adapter as in the released training: alpha equals rank, normal A, zero B."""
    return LoraConfig(r=4, lora_alpha=4, init_lora_weights="gaussian", target_modules=layers)


@torch.no_grad()
def test_a_fresh_adapter_changes_nothing_and_a_trained_one_does() -> None:
    model, tiers = random_transformer(), wave_tiers(8, 8)
    before = model(chunk(), 500.0, TEXT, tiers)
    model.add_adapter(adapter(ADAPTED))
    assert torch.equal(model(chunk(), 500.0, TEXT, tiers), before)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.fill_(0.05)
    assert not torch.allclose(model(chunk(), 500.0, TEXT, tiers), before)
    model.disable_adapters()
    assert torch.equal(model(chunk(), 500.0, TEXT, tiers), before)


@torch.no_grad()
def test_an_adapter_may_cover_the_patch_convolutions() -> None:
    model, tiers = random_transformer(), wave_tiers(8, 8)
    before = model(chunk(), 500.0, TEXT, tiers)
    model.add_adapter(adapter([*ADAPTED, *PATCHES]))
    assert torch.equal(model(chunk(), 500.0, TEXT, tiers), before)


def test_only_the_adapter_is_trained() -> None:
    model = random_transformer()
    model.add_adapter(adapter(ADAPTED))
    assert {name.split(".")[-3] for name, p in model.named_parameters() if p.requires_grad} == {"lora_A", "lora_B"}
    assert all("lora" in name for name in gradients(model))


def test_adapter_weights_have_the_names_of_diffusers() -> None:
    ours, theirs = random_transformer(), diffusers.HeliosTransformer3DModel(**SIZES)
    for model in (ours, theirs):
        model.add_adapter(adapter([*ADAPTED, *PATCHES]))
    shapes, their_shapes = (
        {name: tuple(t.shape) for name, t in get_peft_model_state_dict(m).items()} for m in (ours, theirs)
    )
    assert shapes == their_shapes
    assert len(shapes) == 2 * len([*ADAPTED, *PATCHES])


# Folders


@pytest.mark.parametrize("max_shard_size", ["10GB", "20KB"])
@pytest.mark.parametrize("writer", [HeliosTransformer3DModel, diffusers.HeliosTransformer3DModel])
@pytest.mark.parametrize("reader", [HeliosTransformer3DModel, diffusers.HeliosTransformer3DModel])
@torch.no_grad()
def test_a_folder_that_either_library_wrote_loads_in_the_other(
    writer: type, reader: type, max_shard_size: str, tmp_path: Path
) -> None:
    written = writer(**SIZES).eval()
    randomise(written)
    written.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    assert (tmp_path / "diffusion_pytorch_model.safetensors.index.json").exists() == (max_shard_size == "20KB")
    read, report = reader.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert settings_of(read) == settings_of(written)
    assert relative_error(velocity_of(read), velocity_of(written)) < 1e-5


def settings_of(model: HeliosTransformer3DModel | diffusers.HeliosTransformer3DModel) -> dict[str, object]:
    """The configuration, lists and tuples alike."""
    public = {key: value for key, value in model.config.items() if not key.startswith("_")}
    return {key: tuple(value) if isinstance(value, list) else value for key, value in public.items()}


def velocity_of(model: HeliosTransformer3DModel | diffusers.HeliosTransformer3DModel) -> Tensor:
    """One call of either library's class."""
    if isinstance(model, HeliosTransformer3DModel):
        return model(chunk(), 500.0, TEXT)
    return model(chunk(), torch.tensor([500.0]), TEXT, return_dict=False)[0]


def in_bfloat16(tiers: Tiers) -> Tiers:
    """Tiers for a bfloat16 model."""
    parts = {n: Tier(getattr(tiers, n).latents.bfloat16(), getattr(tiers, n).frames) for n in ("long", "mid", "short")}
    return replace(tiers, **parts)


@torch.no_grad()
def test_a_model_read_in_bfloat16_keeps_its_islands_in_float32(tmp_path: Path) -> None:
    random_transformer().save_pretrained(tmp_path)
    model = HeliosTransformer3DModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    for name, parameter in model.named_parameters():
        island = bool(ISLANDS & set(name.split(".")))
        assert parameter.dtype == (torch.float32 if island else torch.bfloat16), name
    assert model.dtype == torch.bfloat16
    out = model(chunk().bfloat16(), 500.0, TEXT.bfloat16(), in_bfloat16(wave_tiers(8, 8)))
    assert out.dtype == torch.bfloat16
    assert relative_error(out.float(), random_transformer()(chunk(), 500.0, TEXT, wave_tiers(8, 8))) < 0.1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rope_dim": (4, 4, 6)}, r"rope_dim=\(4, 4, 6\).*12"),
        ({"rope_dim": (6, 6)}, r"rope_dim=\(6, 6\).*three"),
        ({"rope_dim": (5, 3, 4)}, r"rope_dim=\(5, 3, 4\).*even"),
        ({"qk_norm": None}, "qk_norm=None.*rms_norm_across_heads"),
        ({"added_kv_proj_dim": 16}, "added_kv_proj_dim=16.*null"),
    ],
)
def test_a_configuration_of_another_model_is_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        HeliosTransformer3DModel(**{**SIZES, **changes})


# Kernels


@torch.no_grad()
def test_an_attention_kernel_is_chosen_by_name_for_all_layers() -> None:
    model, tiers = random_transformer(), wave_tiers(8, 8)
    before = model(chunk(), 500.0, TEXT, tiers)
    model.set_attention_backend("native")
    layers = [m for m in model.modules() if isinstance(m, Attention)]
    assert len(layers) == 4
    assert all(layer.processor._attention_backend == "native" for layer in layers)
    assert torch.equal(model(chunk(), 500.0, TEXT, tiers), before)


def test_one_model_choosing_its_kernel_leaves_another_as_it_is() -> None:
    chooser, other = random_transformer(), random_transformer()
    chooser.set_attention_backend("native")
    assert all(m.processor._attention_backend is None for m in other.modules() if isinstance(m, Attention))


def test_an_unknown_attention_kernel_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"no_such_kernel.*native"):
        random_transformer().set_attention_backend("no_such_kernel")


def test_attention_by_products_is_attention():
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, n, 3, 8, generator=generator) for n in (5, 7, 7))
    wanted = torch.nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (query, key, value)))
    torch.testing.assert_close(attend_by_products(query, key, value), wanted.transpose(1, 2), rtol=1e-5, atol=1e-6)
