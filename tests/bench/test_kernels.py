"""Timing single kernels: every one runs, on shapes of which the operations are known."""

import torch

from heliograph.bench.kernels import RELEASED, SMALL, Timing, seconds_of, time_kernels
from heliograph.bench.roofline import H100

CPU = torch.device("cpu")


def test_every_kernel_runs_on_small_shapes() -> None:
    timings = list(time_kernels(SMALL, CPU, torch.float32, H100))
    names = {timing.kernel for timing in timings}
    assert {"product", "product, 8-bit", "attention native", "gated sum, plain", "convolution float16"} <= names
    for timing in timings:
        assert (timing.seconds is None) == (timing.problem is not None)
        assert timing.seconds is None or (timing.floor_seconds or 0) > 0
        assert timing.kernel in timing.line()


def test_the_shapes_are_those_of_the_released_model() -> None:
    from heliograph.bench import kernels

    assert kernels._lengths(RELEASED) == [2940, 4560, 11040]


def test_a_share_of_the_roofline_is_its_time_over_the_kernel_s() -> None:
    assert "50 % of the roofline" in Timing("product", "a", 2.0, flops=1e12, floor_seconds=1.0).line()
    assert Timing("x", "y", None, problem="it fails").line().endswith("it fails")


def test_a_time_is_that_of_one_call() -> None:
    calls: list[int] = []
    assert seconds_of(lambda: calls.append(1), CPU) < 0.1
    assert len(calls) == 5
