"""The decoder's training: the closed form fits, steps lower the loss, and a stopped run goes on as it would have."""

import pytest
import torch

from heliograph.embedded.code import fit_code
from heliograph.embedded.decoder import Chunks, DecoderConfig, DecoderTraining, psnr, train_decoder

SIZE, STRIDE = (64, 64), 16


@pytest.fixture(scope="module")
def chunks():
    return Chunks.make(4, SIZE, STRIDE)


@pytest.fixture
def model():
    return fit_code(4, SIZE, 16, 8, STRIDE)


def training(model, chunks, steps=40):
    return DecoderTraining(model, DecoderConfig(steps, batch_size=2, warmup_steps=2, noise=0.01), chunks)


def test_the_code_is_orthonormal_and_ordered(model):
    torch.testing.assert_close(model.basis @ model.basis.T, torch.eye(16), rtol=0, atol=1e-5)
    std = torch.tensor(model.config["latents_std"])
    assert bool((std.diff() <= 0).all()) and std.min() > 0


def test_the_closed_form_explains_part_of_what_the_code_drops(model, chunks):
    own = training(model, chunks)
    latents, wanted, _ = own._examples(torch.arange(4), 0)
    own.solve()
    left = wanted - own.decoder(latents).flatten(0, 3)
    assert left.square().mean() < 0.8 * wanted.square().mean()


def test_only_a_new_network_begins_in_closed_form(model, chunks, monkeypatch, tmp_path):
    monkeypatch.setattr("heliograph.embedded.decoder.Chunks.make", lambda *_: chunks)
    monkeypatch.setattr("heliograph.embedded.decoder.linear_code", lambda _: model)

    def begun(state):
        assert not train_decoder("model", state, DecoderConfig(2), SIZE, 0.0, torch.device("cpu"))
        return torch.load(state, weights_only=True)["decoder"]

    solved = begun(tmp_path / "new.pt")
    assert solved["leave.weight"].any()
    with torch.no_grad():
        model.decoder.leave.weight.mul_(2)
    assert torch.equal(begun(tmp_path / "trained.pt")["leave.weight"], 2 * solved["leave.weight"])


def test_steps_lower_the_loss(model, chunks):
    own = training(model, chunks)
    losses = [own.take_step() for _ in range(30)]
    assert sum(losses[-5:]) < 0.97 * sum(losses[:5])


def test_a_stopped_training_goes_on_as_it_would_have(tmp_path, chunks):
    whole = training(fit_code(4, SIZE, 16, 8, STRIDE), chunks)
    for _ in range(4):
        whole.take_step()
    first = training(fit_code(4, SIZE, 16, 8, STRIDE), chunks)
    for _ in range(2):
        first.take_step()
    first.save(tmp_path / "state.pt")
    second = training(fit_code(4, SIZE, 16, 8, STRIDE), chunks)
    second.resume(tmp_path / "state.pt")
    for _ in range(2):
        second.take_step()
    for ours, theirs in zip(second.decoder.parameters(), whole.decoder.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_training_leaves_the_code_alone(model, chunks):
    before = model.basis.clone(), model.mean.clone()
    own = training(model, chunks)
    own.solve()
    own.take_step()
    assert torch.equal(model.basis, before[0]) and torch.equal(model.mean, before[1])


def test_psnr_is_that_of_the_mean_square_error(model):
    everywhere, subjects = psnr(model, 1, SIZE)
    assert 10 < subjects < everywhere < 40
