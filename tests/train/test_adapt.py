"""Stage 1: flow matching, and where it starts from."""

from collections import OrderedDict
from dataclasses import replace
from types import SimpleNamespace

import diffusers
import pytest
import torch
from torch import Tensor, nn

from heliograph.config import MemoryConfig
from heliograph.errors import CheckpointError, UserError
from heliograph.model.patchify import to_tokens
from heliograph.model.transformer import HeliosTransformer3DModel
from heliograph.train import adapt as adapt_module
from heliograph.train.adapt import AdaptConfig, AdaptStage, draw_sigmas, load_text_to_video
from heliograph.train.network import Given
from heliograph.train.objective import velocity_loss
from tests.small import SIZES, relative_error
from tests.train.examples import AS_IT_IS, example, generator, learner, network, normal, silent_network, train

CPU = torch.device("cpu")


class Encoder(nn.Module):
    """A text encoder: an embedding, under the signature of the library's."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 32)

    def forward(self, tokens: Tensor, mask: Tensor) -> SimpleNamespace:
        """Embeddings of the tokens, padding included."""
        assert torch.equal(mask, (tokens != 0).long())
        return SimpleNamespace(last_hidden_state=self.embedding(tokens))


def stage(transformer: HeliosTransformer3DModel, encoder: nn.Module | None = None, **changes: object) -> AdaptStage:
    """Stage 1 on a small network."""
    return AdaptStage(transformer, AdaptConfig(**{"past": AS_IT_IS, **changes}), MemoryConfig(), encoder)


def test_noise_levels_are_thousandths_above_zero() -> None:
    for times in ("logit_normal", "uniform"):
        sigma = draw_sigmas(times, 10_000, generator(), CPU)
        assert torch.equal((1000 * sigma).round() / 1000, sigma)
        assert float(sigma.min()) > 0 and float(sigma.max()) <= 1


def test_logit_normal_levels_have_a_standard_normal_logit() -> None:
    logit = draw_sigmas("logit_normal", 50_000, generator(), CPU).clamp(0.001, 0.999).logit()
    assert float(logit.mean()) == pytest.approx(0, abs=0.02)
    assert float(logit.std()) == pytest.approx(1, abs=0.02)


def test_uniform_levels_have_uniform_quantiles() -> None:
    sigma = draw_sigmas("uniform", 50_000, generator(), CPU)
    for q in (0.1, 0.5, 0.9):
        assert float(sigma.quantile(q)) == pytest.approx(q, abs=0.01)


def test_a_network_that_says_nothing_loses_the_variance_of_noise_and_data() -> None:
    batch = replace(example(4), chunk=0.5 * normal(4, 16, 9, 8, 8) + 0.3)
    wanted = 1 + float(batch.chunk.square().mean())
    loss = stage(silent_network()).loss("student", batch, 0, generator())
    assert float(loss.parts["flow"]) == pytest.approx(wanted, rel=0.02)


def test_loss_is_zero_at_the_wanted_velocity_and_nowhere_else() -> None:
    wanted = normal(2, 16, 9, 4, 4)
    assert float(velocity_loss(wanted, wanted)) == 0
    assert float(velocity_loss(wanted + 0.1, wanted)) == pytest.approx(0.01)


@pytest.mark.parametrize("times", ["logit_normal", "uniform"])
def test_a_network_that_answers_noise_minus_data_at_its_timestep_loses_nothing(
    times: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = example(4)

    def knows_the_data(_: object, x: Tensor, timestep: Tensor, condition: Given) -> Tensor:
        sigma = timestep.reshape(-1, 1, 1, 1, 1) / 1000
        noise = (x - (1 - sigma) * batch.chunk) / sigma
        return noise - batch.chunk

    monkeypatch.setattr(adapt_module, "denoise", knows_the_data)
    assert float(stage(network(), times=times).loss("student", batch, 0, generator()).total) < 1e-6


def test_a_weight_multiplies_the_loss_of_its_cells() -> None:
    got, wanted = normal(2, 16, 9, 4, 4, seed=1), normal(2, 16, 9, 4, 4, seed=2)
    left = torch.zeros(2, 1, 9, 4, 4)
    left[..., :2] = 3
    parts = velocity_loss(got[..., :2], wanted[..., :2])
    assert torch.allclose(velocity_loss(got, wanted, left), 1.5 * parts)
    assert torch.allclose(velocity_loss(got, wanted, torch.ones_like(left)), velocity_loss(got, wanted))


def test_the_weight_of_a_batch_reaches_the_loss() -> None:
    batch, small = example(), stage(network())
    plain = small.loss("student", batch, 0, generator()).total
    weighted = small.loss("student", replace(batch, weight=torch.full((2, 1, 9, 8, 8), 2.0)), 0, generator()).total
    assert torch.allclose(weighted, 2 * plain)


def test_loss_is_a_function_of_batch_and_generator() -> None:
    small, batch = AdaptStage(network(), AdaptConfig(), MemoryConfig()), example()
    first, again, other = (small.loss("student", batch, 0, generator(seed)).total for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_the_network_reads_the_history_it_is_shown() -> None:
    batch, small = example(), stage(network())
    moved = replace(batch, history=batch.history + 1)
    losses = [small.loss("student", b, 0, generator()).parts["flow"] for b in (batch, moved)]
    assert losses[0] != losses[1]


def test_only_what_wants_a_gradient_is_trained() -> None:
    model = network()
    model.requires_grad_(requires_grad=False)
    model.patch_long.requires_grad_(requires_grad=True)
    group = stage(model).trainable()["student"]
    assert set(group.parameters) == {"transformer.patch_long.weight", "transformer.patch_long.bias"}
    assert group.learning_rate == 5e-5 and group.max_grad_norm == 1.0


def test_a_text_encoder_is_trained_along_from_tokens() -> None:
    encoder = Encoder()
    small = stage(network(), encoder)
    batch = replace(example(), text=None, tokens=torch.tensor([[3, 4, 0, 0, 0], [5, 6, 7, 0, 0]]))
    small.loss("student", batch, 0, generator()).total.backward()
    gradient = encoder.embedding.weight.grad
    assert gradient is not None
    assert {i for i in range(10) if gradient[i].abs().sum() > 0} == {3, 4, 5, 6, 7}
    assert "text_encoder.embedding.weight" in small.trainable()["student"].parameters


def test_tokens_without_an_encoder_are_refused() -> None:
    batch = replace(example(), text=None, tokens=torch.ones(2, 5, dtype=torch.long))
    with pytest.raises(UserError, match="no text encoder"):
        stage(network()).loss("student", batch, 0, generator())


def test_training_on_one_chunk_halves_the_loss() -> None:
    losses = train(stage(learner()), example(1), "student", 18, 1e-2)
    assert losses[-1] < losses[0] / 2


# Where it starts from


def wan(seed: int = 0) -> diffusers.WanTransformer3DModel:
    """A small text-to-video model."""
    sizes = {key: value for key, value in SIZES.items() if key != "rope_dim"}
    torch.manual_seed(seed)
    return diffusers.WanTransformer3DModel(**sizes, rope_max_seq_len=64).eval()


@torch.no_grad()
def test_a_text_to_video_model_without_history_keeps_its_velocity() -> None:
    theirs, ours = wan(), network()
    load_text_to_video(ours, theirs.state_dict())
    x, text = normal(1, 16, 9, 4, 6), normal(1, 5, 32, seed=1)
    want = theirs(x, torch.tensor([500]), text, return_dict=False)[0]
    assert relative_error(ours(x, 500.0, text), want) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize(("name", "factor"), [("patch_mid", 2), ("patch_long", 4)])
def test_memory_patches_are_made_from_the_loaded_weights(name: str, factor: int) -> None:
    ours = network()
    load_text_to_video(ours, wan().state_dict())
    assert torch.equal(ours.patch_short.weight, wan().patch_embedding.weight)
    x = normal(1, 16, 4, 16, 16)
    pooled = nn.functional.avg_pool3d(x, factor)
    short, _ = to_tokens(ours.patch_short, pooled)
    tier, _ = to_tokens(ours.get_submodule(name), x)
    assert relative_error(tier, short) < 1e-5


@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_weights_of_another_model_are_refused(change: str) -> None:
    state = OrderedDict(wan().state_dict())
    if change == "missing":
        state.pop("proj_out.weight")
    else:
        state["extra.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match="not the weights of a text-to-video model"):
        load_text_to_video(network(), state)
