"""How many threads a model runs on where it runs on the CPU."""

import torch

SMALL_PARAMETERS = 50_000_000
"""Below this many parameters a second thread gains little and can lose everything (docs/benchmarks/cpu.md)."""


def threads_for(num_parameters: int, num_cores: int) -> tuple[int, str]:
    """Threads for a model of this size, and why.

    It depends on nothing that changes from run to run: another number of threads adds in another order, so the same
    seed would give frames that differ in the last bits.
    """
    if num_parameters < SMALL_PARAMETERS:
        return 1, "the model is small, and a busy machine would make several threads wait for one another"
    return num_cores, "one for each core"


def use_threads(asked: int | None, planned: int | None) -> None:
    """Give PyTorch the threads asked for, or else those planned. It holds for the process: for programs to call."""
    number = asked or planned
    if number:
        torch.set_num_threads(number)
