"""Blocks that come and go: the same numbers, one copy on the host, two places on the device, nothing left behind."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from heliograph.checkpoint import ModelFolder, load_transformer, open_model
from heliograph.engine.offload import ALIGNMENT, Layout, offload_blocks
from heliograph.engine.plan import BLOCKS_IN_FLIGHT, Plan
from heliograph.model.transformer import HeliosTransformer3DModel
from heliograph.tiny import TinySizes, write_random_tiny
from tests.live_bytes import LiveBytes
from tests.small import wave

PLAN = Plan("blocks offloaded", "cpu", "cpu", torch.bfloat16, resident_blocks=1, device_bytes=0, host_bytes=0)
TEXT = wave((1, 5, 32), 0.5).bfloat16()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """A model of five blocks, so that the two places on the device are taken in either order."""
    path = tmp_path_factory.mktemp("models") / "five"
    write_random_tiny(path, sizes=replace(TinySizes(), num_layers=5))
    return open_model(str(path))


def load(folder: ModelFolder, plan: Plan) -> HeliosTransformer3DModel:
    model = load_transformer(folder, plan.dtype, plan.place)
    if plan.way != "whole":
        offload_blocks(model, folder, plan)
    return model


def velocities(model: HeliosTransformer3DModel) -> Iterator[torch.Tensor]:
    """Three steps."""
    for timestep in (900.0, 500.0, 100.0):
        x = wave((1, 16, 9, 4, 4), timestep).bfloat16()
        text = wave((1, 5, int(model.config["text_dim"])), 0.5).bfloat16()
        with torch.no_grad():
            yield model(x, timestep, text, None)


WAYS = ["blocks offloaded", "blocks on disk"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("resident", [0, 1, 2, 4])
def test_blocks_that_come_and_go_compute_the_same(folder: ModelFolder, way: str, resident: int) -> None:
    want = list(velocities(load(folder, replace(PLAN, way="whole", resident_blocks=5))))
    plan = replace(PLAN, way=way, resident_blocks=resident)
    assert all(torch.equal(a, b) for a, b in zip(velocities(load(folder, plan)), want, strict=True))


@pytest.mark.parametrize("way", WAYS)
def test_a_forward_that_fails_half_way_leaves_the_next_one_right(folder: ModelFolder, way: str) -> None:
    model = load(folder, replace(PLAN, way=way))
    want = next(velocities(model))

    def fail(*_: object) -> None:
        raise RuntimeError("stopped")

    for broken in (2, 3, 4):
        handle = model.blocks[broken].get_submodule("ffn").register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError, match="stopped"):
            next(velocities(model))
        handle.remove()
        assert torch.equal(next(velocities(model)), want)


@pytest.mark.parametrize("way", WAYS)
def test_the_host_holds_one_copy_and_the_device_two_blocks(folder: ModelFolder, way: str) -> None:
    plan = replace(PLAN, way=way)
    model = load_transformer(folder, plan.dtype, plan.place)
    waiting = list(model.blocks)[1:]
    size = Layout.of(waiting[0]).size
    with LiveBytes() as live:
        offload_blocks(model, folder, plan)
    on_host = len(waiting) if way == "blocks offloaded" else BLOCKS_IN_FLIGHT
    assert live.peak == live.now == (on_host + BLOCKS_IN_FLIGHT) * size
    if way == "blocks offloaded":
        for block in waiting:
            storages = {p.untyped_storage()._cdata: p.untyped_storage().nbytes() for p in block.parameters()}
            assert list(storages.values()) == [size], "nothing is left of where the block was loaded"
    else:
        assert all(p.is_meta for block in waiting for p in block.parameters())


def test_after_a_step_no_block_holds_the_device_s_memory(folder: ModelFolder) -> None:
    on_disk = load(folder, replace(PLAN, way="blocks on disk"))
    next(velocities(on_disk))
    assert all(p.is_meta for block in on_disk.blocks[1:] for p in block.parameters())
    on_host, whole = load(folder, PLAN), load(folder, replace(PLAN, way="whole", resident_blocks=5))
    next(velocities(on_host))
    for (name, kept), (other, parameter) in zip(on_host.state_dict().items(), whole.state_dict().items(), strict=True):
        assert name == other and torch.equal(kept, parameter)


def test_tensors_of_a_stretch_are_aligned_and_do_not_overlap() -> None:
    block = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 7).bfloat16())
    layout = Layout.of(block)
    ends = [0]
    for piece in layout.pieces.values():
        assert piece.start % ALIGNMENT == 0 and piece.start >= ends[-1]
        ends.append(piece.start + piece.shape.numel() * piece.dtype.itemsize)
    assert ends[-1] <= layout.size
    stretch = torch.zeros(layout.size, dtype=torch.uint8)
    want = {name: p.detach().clone() for name, p in block.named_parameters()}
    for name, tensor in want.items():
        layout.pieces[name].within(stretch).copy_(tensor)
    layout.bind(block, stretch)
    assert all(torch.equal(p, want[name]) and p.dtype == want[name].dtype for name, p in block.named_parameters())


def test_a_plan_that_keeps_every_block_changes_nothing(folder: ModelFolder, tmp_path: Path) -> None:
    model = load(folder, replace(PLAN, resident_blocks=5))
    assert not any(block._forward_pre_hooks for block in model.blocks)
