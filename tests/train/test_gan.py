"""Heads, their losses, and the cached gradient."""

import math
import weakref

import pytest
import torch
from torch import Tensor, nn

from heliograph.errors import UserError
from heliograph.train.gan import (
    Crop,
    Head,
    Heads,
    HeadSizes,
    approximate_r1,
    cached_gradient,
    critic_logit_loss,
    draw_crop,
    student_logit_loss,
)
from tests.train.examples import generator, normal

SMALL = HeadSizes(width=16, halvings=1)


def test_a_full_head_has_the_published_size() -> None:
    with torch.device("meta"):
        hooked, final = Head(5120, HeadSizes()), Head(16, HeadSizes())
    count = [sum(p.numel() for p in head.parameters()) for head in (hooked, final)]
    assert count[0] / 1e6 == pytest.approx(219, abs=1)
    assert (4 * count[0] + count[1]) / 1e9 == pytest.approx(1.0, abs=0.05)


def test_frames_shrink_nine_nine_four_two_one_one() -> None:
    head = Head(3, HeadSizes(width=8))
    lengths = [9]
    x = normal(1, 3, 9, 12, 20)
    for layer in head.layers:
        x = layer(x)
        if isinstance(layer, nn.Conv3d):
            lengths.append(x.shape[2])
    assert lengths == [9, 9, 4, 2, 1, 1, 1]
    assert tuple(x.shape[3:]) == (3, 5)


@pytest.mark.parametrize(("width", "groups"), [(768, 32), (64, 16), (16, 4), (24, 2), (4, 1)])
def test_groups_follow_the_width(width: int, groups: int) -> None:
    with torch.device("meta"):
        head = Head(3, HeadSizes(width=width))
    assert {layer.num_groups for layer in head.layers if isinstance(layer, nn.GroupNorm)} == {groups}


@pytest.mark.parametrize("side", [2, 4, 8])
def test_a_head_that_ends_in_one_cell_still_sees_its_input(side: int) -> None:
    torch.manual_seed(0)
    head = Head(3, SMALL)
    logits = head(normal(4, 3, 9, side, side))
    assert logits.shape == (4,) and float(logits.detach().std()) > 1e-4


def test_heads_give_one_logit_for_each_feature_map_of_each_sample() -> None:
    torch.manual_seed(0)
    heads = Heads([3, 5], SMALL)
    features = [normal(2, 3, 9, 4, 4), normal(2, 5, 9, 8, 8, seed=1)]
    logits = heads(features)
    assert logits.shape == (2, 2)
    assert torch.allclose(logits[1], heads([f[1:] for f in features])[0], atol=1e-6)


def test_heads_of_few_cells_have_gradients_under_autocast() -> None:
    heads = Heads([8, 4], HeadSizes(64, 1))
    with torch.autocast("cpu", torch.bfloat16):
        logits = heads([normal(6, 8, 9, 2, 2), normal(6, 4, 9, 4, 4)])
    assert logits.dtype == torch.float32
    student_logit_loss(logits).backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in heads.parameters())


def test_a_width_without_groups_is_refused() -> None:
    with pytest.raises(UserError, match="multiple of 4"):
        HeadSizes(width=10)


# Losses: a large logit means made by the student


def test_losses_of_undecided_heads_are_logarithms_of_two() -> None:
    zero = torch.zeros(2, 5)
    assert float(critic_logit_loss(zero, zero)) == pytest.approx(2 * math.log(2))
    assert float(student_logit_loss(zero)) == pytest.approx(math.log(2))


def test_heads_raise_the_students_logits_and_lower_real_ones_and_the_student_lowers_its_own() -> None:
    student, real = normal(2, 5).requires_grad_(), normal(2, 5, seed=1).requires_grad_()
    by_critic = torch.autograd.grad(critic_logit_loss(student, real), (student, real))
    assert bool((by_critic[0] < 0).all()) and bool((by_critic[1] > 0).all())
    (by_student,) = torch.autograd.grad(student_logit_loss(student), student)
    assert bool((by_student > 0).all())


def test_the_student_still_has_a_gradient_where_it_is_found_out() -> None:
    sure = torch.full((1, 1), 30.0, requires_grad=True)
    (gradient,) = torch.autograd.grad(student_logit_loss(sure), sure)
    assert float(gradient) == pytest.approx(1)


def test_r1_approximates_the_squared_gradient() -> None:
    slope, sigma = normal(64), 0.1
    x = normal(20_000, 64, seed=1)
    noise = normal(20_000, 64, seed=2)
    logits, nearby = ((v @ slope)[:, None] for v in (x, x + sigma * noise))
    assert float(approximate_r1(logits, nearby)) == pytest.approx(sigma**2 * float(slope.square().sum()), rel=0.03)


def test_r1_of_a_chunk_with_itself_is_zero() -> None:
    assert float(approximate_r1(normal(2, 5), normal(2, 5))) == 0


# Crops


def test_a_crop_has_half_of_both_sides_in_whole_patches_and_falls_anywhere() -> None:
    crops = [draw_crop(48, 80, generator(seed)) for seed in range(400)]
    assert {(crop.height, crop.width) for crop in crops} == {(24, 40)}
    assert {crop.top for crop in crops} == set(range(25))
    assert min(crop.left for crop in crops) == 0 and max(crop.left for crop in crops) == 40
    small = draw_crop(6, 2, generator())
    assert (small.height, small.width) == (2, 2)


def test_a_crop_shows_that_part() -> None:
    x = normal(1, 2, 3, 8, 8)
    assert torch.equal(Crop(2, 4, 4, 2).of(x), x[..., 2:6, 4:6])


# Cached gradient


def deep() -> nn.Module:
    """A network whose graph is large beside its input."""
    torch.manual_seed(0)
    layers = [layer for _ in range(6) for layer in (nn.Linear(16, 16), nn.Tanh())]
    return nn.Sequential(*layers)


def loss_by(model: nn.Module, x: Tensor) -> Tensor:
    """Something to minimise."""
    return model(x.movedim(1, -1)).square().mean()


def test_cached_gradient_equals_the_ordinary_one() -> None:
    model = deep()
    gradients = []
    for way in (lambda x: loss_by(model, x), lambda x: cached_gradient(lambda leaf: loss_by(model, leaf), x)):
        source = normal(2, 16, 3, 4, 4).requires_grad_()
        loss = 3 * way(2 * source)
        loss.backward()
        gradients.append((float(loss.detach()), source.grad))
    assert gradients[0][0] == pytest.approx(gradients[1][0])
    assert torch.allclose(gradients[0][1], gradients[1][1], atol=1e-6)


def test_a_cached_gradient_leaves_parameters_without_one() -> None:
    model = deep()
    cached_gradient(lambda leaf: loss_by(model, leaf), normal(2, 16, 3, 4, 4).requires_grad_()).backward()
    assert all(parameter.grad is None for parameter in model.parameters())


class Kept:
    """Stands for a tensor that a graph keeps."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def kept_bytes(way: str) -> int:
    """Bytes that the graph of a loss keeps alive for the backward pass."""
    model, alive = deep(), weakref.WeakSet()
    x = normal(2, 16, 3, 4, 4).requires_grad_()

    def pack(tensor: Tensor) -> Kept:
        kept = Kept(tensor)
        alive.add(kept)
        return kept

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
        loss = loss_by(model, x) if way == "plain" else cached_gradient(lambda leaf: loss_by(model, leaf), x)
    assert loss.requires_grad
    return sum(kept.tensor.nbytes for kept in alive)


def test_a_cached_gradient_keeps_one_tensor_instead_of_a_graph() -> None:
    size = 2 * 16 * 3 * 4 * 4 * 4
    assert kept_bytes("cached") == size
    assert kept_bytes("plain") > 5 * size
