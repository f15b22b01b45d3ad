"""What the tests run in processes of their own, quickly: the module is loaded once in a server that forks them."""

import multiprocessing
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from heliograph.config import MemoryConfig
from heliograph.data.loader import Drawing
from heliograph.train.adapt import AdaptConfig, AdaptStage
from heliograph.train.adapter import AdapterConfig
from heliograph.train.distill import DistillConfig, DistillStage
from heliograph.train.ema import EmaConfig, local_part
from heliograph.train.gan import GanConfig, HeadSizes
from heliograph.train.idle import Idle, Turns
from heliograph.train.loop import LoopConfig, Trainer, Watchers
from heliograph.train.lora import add_seeded_adapter, merged_tensors, train_only, whole_tensor
from heliograph.train.parallel import Parallel, own_place
from heliograph.train.roles import Roles, make_heads
from heliograph.train.stage import Batch, Optimiser, Stage
from tests.small import SIZES, small_transformer, wave

ALONE = Parallel(0, 1, torch.device("cpu"))


@dataclass(frozen=True)
class WaveSource:
    """Batches of two examples that are a function of their number."""

    drawing: Drawing = field(default_factory=lambda: Drawing(2, 19))
    name: str = "waves"

    def batch(self, number: int) -> tuple[Batch, ...]:
        return tuple(self._draw(number, draw) for draw in range(self.drawing.num_draws))

    def fingerprint(self) -> str:
        return self.name

    def _draw(self, number: int, draw: int) -> Batch:
        generator = torch.Generator().manual_seed(1000 * number + draw)

        def normal(*shape: int) -> Tensor:
            return torch.randn(self.drawing.batch_size, *shape, generator=generator)

        anchor = normal(16, 1, 8, 8)
        return Batch(normal(16, 9, 8, 8), normal(16, 19, 8, 8), anchor, 0.3 * normal(5, SIZES["text_dim"]))


@dataclass(frozen=True)
class Case:
    """A small run: which stage, its layout, and the loop around it."""

    stage: str = "adapter"
    layout: str = "replicate"
    steps: int = 2
    accumulation: int = 1
    max_steps: int = 100
    checkpoint_every: int = 50
    ema: EmaConfig | None = None
    idle: str = "stay"
    rate: str = "constant"

    def trainer(self, parallel: Parallel, folder: Path) -> Trainer:
        config = LoopConfig(
            self.max_steps,
            accumulation=self.accumulation,
            rate=self.rate,  # type: ignore[arg-type]
            warmup_steps=2,
            checkpoint_every=self.checkpoint_every,
            log_every=1,
        )
        stage = make_stage(self.stage, self.layout, parallel, self.idle)
        return Trainer(stage, WaveSource(Drawing(2, 19, 2)), config, self.ema, parallel, folder)


def make_stage(kind: str, layout: str, parallel: Parallel, idle: str = "stay") -> Stage:
    """`whole` trains a small transformer, `adapter` an adapter on one, `distill` student, critic and heads."""
    torch.set_num_threads(1)
    student = _adapted("student") if kind != "whole" else small_transformer()
    if kind == "whole":
        train_only(student, ("",))
    if kind != "distill":
        parallel.place(student, layout)  # type: ignore[arg-type]
        return AdaptStage(student, AdaptConfig(optimiser=Optimiser(1e-2)), MemoryConfig())
    student.enable_gradient_checkpointing()
    parallel.place(student, "replicate")
    gan = GanConfig(blocks=(1,), sizes=HeadSizes(8, 1), first_step=1)
    scores = _adapted("critic")
    torch.manual_seed(3)
    heads = make_heads(scores, gan)
    for module in (scores, heads):
        parallel.place(module, layout)  # type: ignore[arg-type]
    optimiser = Optimiser(1e-2, (0.0, 0.999), 1e-3)
    config = DistillConfig(gan=gan, critic_steps=1, student_optimiser=optimiser, critic_optimiser=optimiser)
    turns = Turns(Idle(student), Idle(scores)) if idle == "leave" else None
    return DistillStage(Roles(student, scores, heads, turns), config, MemoryConfig(), wave((1, 5, 32), 0.2))


def _adapted(name: str) -> Any:
    network = small_transformer()
    convolutions = ("patch_embedding",) if name == "student" else ()
    add_seeded_adapter(network, AdapterConfig(4, convolutions, ("patch_long",) if convolutions else ()), name, seed=1)
    with torch.no_grad():  # B is zero at first, and then the first gradient of A is too
        for key, parameter in network.named_parameters():
            if ".lora_B." in key:
                parameter.copy_(0.1 * wave(tuple(parameter.shape), 0.5))
    return network


def run_steps(case: Case, parallel: Parallel, folder: Path) -> dict[str, Any]:
    """The figures of the steps, and the weights after them with adapters folded in."""
    trainer = case.trainer(parallel, folder)
    figures = [trainer.take_step() for _ in range(case.steps)]
    trainer.loader.close()
    modules = {
        "student": getattr(trainer.stage, "transformer", None) or trainer.stage.roles.student,  # type: ignore[attr-defined]
        "scores": getattr(getattr(trainer.stage, "roles", None), "scores", None),
    }
    if case.idle == "leave":
        trainer.stage.roles.turns.scores.come()  # type: ignore[attr-defined]
    names = {"student": "student" if case.stage != "whole" else None, "scores": "critic"}
    weights = {
        f"{role}.{key}": tensor.clone()
        for role, module in modules.items()
        if module is not None
        for key, tensor in merged_tensors(module, names[role])
    }
    averages = trainer.ema.averages if trainer.ema else {}
    trained = {name: whole_tensor(p).clone() for name, p in trainer.groups["student"].parameters.items()}
    with trainer.ema.applied() if trainer.ema else nullcontext():
        shown = {name: whole_tensor(p).clone() for name, p in trainer.groups["student"].parameters.items()}
    after = {name: whole_tensor(p).clone() for name, p in trainer.groups["student"].parameters.items()}
    return {
        "figures": figures,
        "weights": weights,
        "trained": trained,
        "shown": shown,
        "after": after,
        "averages": {name: whole_tensor(average).clone() for name, average in averages.items()},
        "average_bytes": sum(local_part(average).nbytes for average in averages.values()),
    }


# Processes


def in_processes(world: int, work: Callable[..., None], *arguments: Any) -> None:
    """Run `work(rank, world, *arguments)` in `world` processes and wait; a failure in one ends all and the test."""
    processes = [start(work, rank, world, *arguments) for rank in range(world)]
    while running := [process for process in processes if process.is_alive()]:
        wait([process.sentinel for process in running])
        if any(process.exitcode for process in processes):
            for process in processes:
                process.kill()
    codes = [process.exitcode for process in processes]
    assert codes == [0] * world, f"exit codes {codes}"


def start(work: Callable[..., None], *arguments: Any) -> Any:
    """A process that runs `work(*arguments)`, already started."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.train.workers"])
    process = context.Process(target=work, args=arguments, daemon=True)
    process.start()
    return process


def together(rank: int, world: int, cases: dict[str, Case], folder: Path) -> None:
    """One of several processes that go through some runs; the first stores what came of them."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    results = {name: run_steps(case, own_place("cpu"), folder / name) for name, case in cases.items()}
    if rank == 0:
        torch.save(results, folder / "results.pt")
    dist.destroy_process_group()


def train_and_save(case: Case, folder: Path) -> None:
    """Go on with a run, storing checkpoints, until killed or done."""
    torch.set_num_threads(1)
    trainer = case.trainer(ALONE, folder)
    trainer.resume()
    trainer.run(Watchers())
