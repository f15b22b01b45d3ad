"""Attention in 8 bits: what it computes, in PyTorch, and how cuDNN is called for it, by a package that stands in."""

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from heliograph.engine import attention
from heliograph.engine.attention import CUDNN_8_BIT, OWN_KERNELS, Candidate, attend_in_8_bits
from heliograph.engine.attention import probe_all as probes_of
from heliograph.kernels import cudnn_attention
from heliograph.kernels.cudnn_attention import attend, attend_in_pytorch, check_device, handle_of, plan_of
from heliograph.kernels.eight_bit import FORMAT
from tests.small import relative_error

CPU = torch.device("cpu")

HAS_KERNEL = (
    torch.cuda.is_available()
    and torch.cuda.get_device_capability() >= cudnn_attention.LEAST_CAPABILITY
    and find_spec(cudnn_attention.PACKAGE) is not None
)


def rows_of(
    queries: int,
    keys: int,
    heads: int = 2,
    width: int = 16,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> list[Tensor]:
    """Random queries, keys and values (b n k e); keys and values lie side by side."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, queries, heads, width, generator=generator)
    packed = torch.randn(1, keys, 3, heads, width, generator=generator)
    return [query.to(device, dtype), *packed.to(device, dtype)[:, :, 1:].unbind(2)]


def exact(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    q, k, v = (x.transpose(1, 2).float() for x in (query, key, value))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)


# What it computes


def distance(got: Tensor, want: Tensor) -> float:
    """Of all numbers together, relative to the length of `want`."""
    return float((got.float() - want.float()).norm() / want.float().norm())


@pytest.mark.parametrize(("sharpness", "most"), [(1.0, 0.06), (2.0, 0.08), (4.0, 0.09)])
def test_attention_in_8_bits_is_near_the_exact_one(sharpness: float, most: float) -> None:
    # Rounding moves a score by some percent of it: the larger scores are, the more that matters.
    query, key, value = rows_of(64, 96, width=64)
    query = sharpness * query
    assert 0.01 < distance(attend_in_pytorch(query, key, value), exact(query, key, value)) < most


def test_where_one_key_is_much_better_its_value_is_taken() -> None:
    _, key, value = rows_of(64, 64, width=64)
    got = attend_in_pytorch(8 * key, key, value)
    assert distance(exact(8 * key, key, value), value) < 1e-3
    assert distance(got, value) < 0.04 and relative_error(got, value) < 0.04


def test_attention_to_one_key_is_its_value_rounded() -> None:
    query, key, value = rows_of(3, 1)
    got = attend_in_pytorch(query, key, value)
    assert relative_error(got, value.expand_as(got)) < 0.04


def test_zeros_stay_zeros() -> None:
    query, key, value = rows_of(4, 8)
    assert attend_in_pytorch(query, key, torch.zeros_like(value)).eq(0).all()
    alike = attend_in_pytorch(torch.zeros_like(query), torch.zeros_like(key), value)
    assert relative_error(alike, value.mean(dim=1, keepdim=True).expand_as(alike)) < 0.08


@pytest.mark.parametrize("factor", [1000.0, 1e-4])
def test_attention_follows_the_size_of_values(factor: float) -> None:
    query, key, value = rows_of(16, 24)
    want = factor * attend_in_pytorch(query, key, value)
    assert relative_error(attend_in_pytorch(query, key, factor * value), want) < 0.05
    power = attend_in_pytorch(query, key, 1024 * value)
    assert torch.equal(power, 1024 * attend_in_pytorch(query, key, value)), "a power of two changes no digit"


def test_results_have_the_dtype_of_queries() -> None:
    rows = [x.bfloat16() for x in rows_of(4, 8)]
    assert attend_in_pytorch(*rows).dtype == torch.bfloat16


# How cuDNN is called


class Node:
    """A tensor of a graph: what was said of it."""

    def __init__(self, **said: Any) -> None:
        self.said = said

    def __getattr__(self, name: str) -> Any:
        def note(value: Any) -> "Node":
            self.said[name.removeprefix("set_")] = value
            return self

        return note


class Graph:
    """Stands in for a graph of cuDNN's: attends in PyTorch what it is given."""

    built = 0
    refuses = False

    def __init__(self, **_: Any) -> None:
        self.nodes: dict[str, Node] = {}
        self.executed: list[tuple[Tensor, Any]] = []

    def tensor(self, **said: Any) -> Node:
        return Node(**said)

    def sdpa_fp8(self, **named: Any) -> tuple[Node, None, Node, Node]:
        self.attn_scale = named["attn_scale"]
        self.nodes = {name: node for name, node in named.items() if isinstance(node, Node)}
        self.nodes |= {"o": Node(), "amax_s": Node(), "amax_o": Node()}
        return self.nodes["o"], None, self.nodes["amax_s"], self.nodes["amax_o"]

    def validate(self) -> None: ...

    def build_operation_graph(self) -> None: ...

    def create_execution_plans(self, modes: list[str]) -> None: ...

    def check_support(self) -> None:
        if self.refuses:
            raise ValueError("No valid engine configs\nand more")

    def build_plans(self) -> None:
        type(self).built += 1

    def get_workspace_size(self) -> int:
        return 0

    def execute(self, given: dict[Node, Tensor], room: Tensor, handle: Any) -> None:
        self.executed.append((room, handle.stream))
        assert set(given) == set(self.nodes.values()), "all that the graph reads and writes, and nothing else"
        x = {name: given[node] for name, node in self.nodes.items()}
        for name in ("q", "k", "v", "o"):
            assert x[name].dtype == FORMAT
            assert list(x[name].shape) == self.nodes[name].said["dim"]
            assert list(x[name].stride()) == self.nodes[name].said["stride"]
        numbers = [name for name in x if name not in ("q", "k", "v", "o")]
        assert all(x[name].dtype == torch.float32 and x[name].shape == (1, 1, 1, 1) for name in numbers)
        if x["q"].is_meta:
            return
        scores = (x["q"].float() @ x["k"].float().mT) * (x["descale_q"] * x["descale_k"] * self.attn_scale)
        weights = (scores - scores.amax(dim=-1, keepdim=True)).exp()
        rounded = (weights * x["scale_s"]).to(FORMAT).float() * x["descale_s"]
        mixed = rounded @ (x["v"].float() * x["descale_v"]) / weights.sum(dim=-1, keepdim=True)
        x["o"].copy_((mixed * x["scale_o"]).to(FORMAT))


def _set_stream(handle: Any, stream: int) -> None:
    handle.stream = stream


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A package in cuDNN's place, and a stream and a recording that can be changed."""
    state = SimpleNamespace(stream=7, is_capturing=False, handles=0)

    def create_handle() -> SimpleNamespace:
        state.handles += 1
        return SimpleNamespace(stream=None)

    package = ModuleType("cudnn")
    package.__dict__.update(
        data_type=SimpleNamespace(FP8_E4M3="e4m3", FLOAT="float"),
        heur_mode=SimpleNamespace(A="a"),
        pygraph=Graph,
        create_handle=create_handle,
        set_stream=_set_stream,
    )
    monkeypatch.setitem(sys.modules, "cudnn", package)
    monkeypatch.setattr(cudnn_attention, "check_device", lambda _: None)
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: SimpleNamespace(cuda_stream=state.stream))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: state.is_capturing)
    monkeypatch.setattr(Graph, "built", 0)
    plan_of.cache_clear()
    handle_of.cache_clear()
    yield state
    plan_of.cache_clear()
    handle_of.cache_clear()


@torch.no_grad()
def test_cudnn_is_given_what_the_definition_says(stand_in: SimpleNamespace) -> None:
    for queries, keys in ((24, 24), (10, 24)):
        rows = rows_of(queries, keys)
        got, want = attend(*rows), attend_in_pytorch(*rows)
        # The division by 448 of one and the product of the other round once in a while to neighbours.
        assert (got != want).float().mean() < 0.02
        assert relative_error(got, want) < 0.08


@torch.no_grad()
def test_a_plan_is_made_once_for_a_size_and_follows_the_stream(stand_in: SimpleNamespace) -> None:
    rows = rows_of(10, 24)
    attend(*rows)
    stand_in.stream = 8
    stand_in.is_capturing = True
    attend(*(2 * x for x in rows))
    plan = plan_of((1, 10, 2, 16), (1, 24, 2, 16), CPU)
    assert [stream for _, stream in plan.graph.executed] == [7, 8]
    assert Graph.built == 1 and all(room.dtype == torch.uint8 for room, _ in plan.graph.executed)
    with pytest.raises(RuntimeError, match="once before a CUDA graph records it"):
        attend(*rows_of(12, 24))
    stand_in.is_capturing = False
    attend(*rows_of(12, 24))
    assert (Graph.built, stand_in.handles) == (2, 1)


@torch.no_grad()
def test_nothing_is_read_back_from_the_device(stand_in: SimpleNamespace) -> None:
    rows = rows_of(10, 24, device="meta", dtype=torch.bfloat16)  # reading a number raises there
    out = attend(*rows)
    assert out.shape == rows[0].shape and out.dtype == torch.bfloat16 and out.is_meta


@torch.no_grad()
def test_a_size_that_cudnn_refuses_is_named(stand_in: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Graph, "refuses", True)
    with pytest.raises(RuntimeError, match=r"queries \(1, 10, 2, 16\).*No valid engine configs\); use --no-attention8"):
        attend(*rows_of(10, 24))


def test_devices_without_the_kernel_are_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    check_device.cache_clear()
    with pytest.raises(RuntimeError, match="needs a CUDA device, not cpu"):
        attend_in_8_bits(*rows_of(2, 2))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 9))
    with pytest.raises(RuntimeError, match=r"needs compute capability 9\.0, this device has 8\.9"):
        check_device(torch.device("cuda:0"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    check_device(torch.device("cuda:0"))
    check_device.cache_clear()


@torch.no_grad()
def test_attention_to_few_keys_stays_exact(stand_in: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "FEWEST_KEYS_IN_8_BITS", 64)
    few, many = rows_of(4, 63), rows_of(4, 64)
    assert relative_error(attend_in_8_bits(*few), exact(*few)) < 1e-5
    assert Graph.built == 0
    assert 1e-3 < relative_error(attend_in_8_bits(*many), exact(*many)) < 0.15
    assert Graph.built == 1


@torch.no_grad()
def test_it_is_tried_as_any_other_kernel(stand_in: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "FEWEST_KEYS_IN_8_BITS", 64)
    assert OWN_KERNELS[CUDNN_8_BIT] is attend_in_8_bits
    candidates = [Candidate(CUDNN_8_BIT, None, tolerance=tolerance) for tolerance in (0.15, 0.001)]
    right, wrong = probes_of(candidates, CPU, torch.float32, (1, 300, 2, 16))
    assert right.problem is None and (right.seconds or 0) > 0
    assert wrong.problem is not None and "error" in wrong.problem


# On a GPU


@pytest.mark.skipif(
    not HAS_KERNEL, reason="needs a GPU of compute capability 9.0 and the package nvidia-cudnn-frontend"
)
@torch.no_grad()
def test_cudnn_agrees_with_the_definition_and_can_be_recorded() -> None:
    query, key, value = rows_of(700, 1100, heads=4, width=128, device="cuda", dtype=torch.bfloat16)
    got, want = attend(query, key, value), attend_in_pytorch(query, key, value)
    assert got.dtype == torch.bfloat16
    assert distance(got, want) < 0.08  # weights are rounded against other largest scores
    assert distance(got, exact(query, key, value)) < 0.1
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        attend(query, key, value)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        recorded = attend(query, key, value)
    query.copy_(query.flip(1))
    graph.replay()
    assert torch.equal(recorded, got.flip(1)) or relative_error(recorded.float(), got.flip(1).float()) < 0.05
    assert attend(query, key, torch.zeros_like(value)).eq(0).all()
