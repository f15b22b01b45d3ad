"""Recordings of the transformer: the same numbers as without, whatever changes between replays."""

import gc
import itertools
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from heliograph.config import HistoryReuse
from heliograph.engine.graphs import GraphedTransformer, Replay, capture_by_running
from heliograph.memory import Tiers
from heliograph.model.denoiser import ChunkContext, Condition, Prompt, TransformerDenoiser
from heliograph.model.past import Noted, noted_key
from tests.small import random_history, small_transformer, wave

TEXTS = wave((1, 5, 32), 0.5), wave((1, 5, 32), 2.5)
OTHER_TEXT = wave((1, 5, 32), 4.5)


class CountedCapture:
    """`capture_by_running`, counted, in a way that fails if a recording reads anything but its own memory."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def __call__(self, run: object) -> tuple[object, Tensor]:
        self.recorded += 1
        replay, out = capture_by_running(run)  # pyright: ignore[reportArgumentType]

        def counted() -> None:
            self.replayed += 1
            replay()

        return counted, out


class Made(TorchDispatchMode):
    """Keeps every tensor with memory of its own that is made while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        self.tensors += [
            t for t in tree_leaves(out) if isinstance(t, Tensor) and t.untyped_storage().data_ptr() not in given
        ]
        return out


class PoisonedCapture:
    """A recording, counted, of whose memory nothing stays after a run but the result, as in a pool that all share."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def __call__(self, run: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
        self.recorded += 1
        run()
        out = _run_and_poison(run)

        def replay() -> None:
            self.replayed += 1
            out.copy_(_run_and_poison(run))

        return replay, out


class Read(TorchDispatchMode):
    """Notes, without holding it, all memory that is read while it is on and was there before."""

    def __init__(self) -> None:
        super().__init__()
        self.memory: dict[int, StorageWeakRef] = {}
        self._made: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        own = {t.untyped_storage().data_ptr() for t in self._made}
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor) and (place := tensor.untyped_storage().data_ptr()) not in own:
                self.memory.setdefault(place, StorageWeakRef(tensor.untyped_storage()))
        known = own | set(self.memory)
        self._made += [
            t for t in tree_leaves(out) if isinstance(t, Tensor) and t.untyped_storage().data_ptr() not in known
        ]
        return out


class DroppedCapture:
    """Holds nothing of what it records but the result, as a graph on a GPU, and knows what memory that graph reads."""

    def __init__(self) -> None:
        self.reads: list[Read] = []

    def __call__(self, run: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
        run()
        self.reads.append(Read())
        with self.reads[-1]:
            out = run()
        return lambda: None, out

    def all_there(self) -> bool:
        """Whether none of the memory that was read is free."""
        gc.collect()
        return not any(storage.expired() for read in self.reads for storage in read.memory.values())


def _run_and_poison(run: Callable[[], Tensor]) -> Tensor:
    with Made() as made:
        out = run()
    out = out.clone()
    for tensor in made.tensors:
        if tensor.is_floating_point():
            tensor.fill_(torch.nan)
    return out


def reusing(
    reuse: HistoryReuse, pays: Callable[..., bool] = lambda *_: True, **config: object
) -> tuple[TransformerDenoiser, TransformerDenoiser, PoisonedCapture]:
    """A plain denoiser, a recorded one over the same transformer, and what records."""
    model, capture = small_transformer(**config), PoisonedCapture()
    plain, graphed = (TransformerDenoiser(model, history_reuse=reuse) for _ in range(2))
    graphed.run = GraphedTransformer(model, capture, pays)
    return plain, graphed, capture


def noted_under(prompt: Prompt, context: ChunkContext) -> Noted:
    noted = context.memo.value(noted_key(prompt.memo))
    assert isinstance(noted, Noted)
    return noted


def tiers(seed: int) -> Tiers:
    return random_history(seed=seed).tiers(9)


@pytest.mark.parametrize("is_clean", [True, False])
@torch.no_grad()
def test_a_replay_follows_noise_timestep_prompt_and_history(is_clean: bool) -> None:  # noqa: FBT001
    plain = TransformerDenoiser(small_transformer(zero_history_timestep=is_clean))
    graphed, capture = TransformerDenoiser(plain.transformer), CountedCapture()
    graphed.run = GraphedTransformer(plain.transformer, capture, lambda *_: True)  # pyright: ignore[reportArgumentType]
    prompts = [(plain.prompt(text), graphed.prompt(text)) for text in TEXTS]
    for seed in range(3):  # chunks
        contexts = plain.context(tiers(seed)), graphed.context(tiers(seed))
        for level, size in enumerate((2, 4)):
            for timestep in (900.0 - 300 * level, 500.0 + seed):
                x = wave((1, 16, 9, size, size), timestep)
                for one, other in prompts if seed else prompts[:1]:
                    want = plain(x, timestep, Condition(one, contexts[0]))
                    got = graphed(x, timestep, Condition(other, contexts[1]))
                    assert torch.equal(got, want)
                    assert got.data_ptr() != graphed(x, timestep, Condition(other, contexts[1])).data_ptr()
    assert capture.recorded == 2, "one for each level"
    assert capture.replayed == 2 * (2 * 2 * (1 + 2 + 2))


@torch.no_grad()
def test_a_level_whose_replay_is_slower_is_run_plainly() -> None:
    plain, capture = TransformerDenoiser(small_transformer()), CountedCapture()
    graphed = TransformerDenoiser(plain.transformer)
    graphed.run = GraphedTransformer(plain.transformer, capture, lambda *_: False)  # pyright: ignore[reportArgumentType]
    for seed in range(2):
        x = wave((1, 16, 9, 4, 4), seed)
        want, got = (
            one(x, 500.0, Condition(one.prompt(TEXTS[0]), one.context(tiers(seed)))) for one in (plain, graphed)
        )
        assert torch.equal(got, want)
    assert (capture.recorded, capture.replayed) == (1, 0)


@torch.no_grad()
def test_a_model_without_memory_is_recorded_too() -> None:
    model, capture = small_transformer(has_multi_term_memory_patch=False), CountedCapture()
    graphed = GraphedTransformer(model, capture, lambda *_: True)  # pyright: ignore[reportArgumentType]
    from heliograph.model.memo import Memos

    for phase in (0.1, 0.7):
        x, memos = wave((1, 16, 9, 4, 4), phase), Memos()
        assert torch.equal(graphed(x, 500.0, TEXTS[0], None, memos), model(x, 500.0, TEXTS[0]))


@pytest.mark.parametrize("reuse", ["level", "chunk"])
@pytest.mark.parametrize("is_clean", [True, False])
@torch.no_grad()
def test_history_is_reused_as_without_recordings(reuse: HistoryReuse, is_clean: bool) -> None:  # noqa: FBT001
    plain, graphed, capture = reusing(reuse, zero_history_timestep=is_clean)
    prompts = [(plain.prompt(text), graphed.prompt(text)) for text in (*TEXTS, OTHER_TEXT)]
    calls = 0
    for seed in range(4):  # chunks
        contexts = plain.context(tiers(seed)), graphed.context(tiers(seed))
        for level, size in enumerate((2, 4)):
            for step, timestep in enumerate((900.0 - 300 * level, 500.0 + seed)):
                x = wave((1, 16, 9, size, size), timestep)
                both = {
                    0: prompts[:1],
                    1: prompts[:2],  # as guidance does
                    2: [prompts[1], prompts[2 if level else 0]],  # one prompt gives way to another between levels
                    3: [prompts[step]],  # and here in every step
                }
                for one, other in both[seed]:
                    want = plain(x, timestep, Condition(one, contexts[0]))
                    got = graphed(x, timestep, Condition(other, contexts[1]))
                    assert torch.isfinite(got).all() and torch.equal(got, want)
                    calls += 1
    assert capture.recorded == 4, "on each level one that notes and one that takes over"
    assert capture.replayed == calls


@pytest.mark.parametrize("reuse", ["level", "chunk"])
@pytest.mark.parametrize("answers", list(itertools.product([True, False], repeat=3)))
@torch.no_grad()
def test_recordings_and_plain_forwards_read_each_other_s_rows(reuse: HistoryReuse, answers: tuple[bool, ...]) -> None:
    following = itertools.cycle(answers)
    plain, graphed, _ = reusing(reuse, lambda *_: next(following))
    prompts = [(plain.prompt(text), graphed.prompt(text)) for text in TEXTS]
    for seed in range(2):
        contexts = plain.context(tiers(seed)), graphed.context(tiers(seed))
        for size, timestep in ((2, 900.0), (2, 800.0), (4, 700.0), (4, 600.0)):
            x = wave((1, 16, 9, size, size), timestep)
            for one, other in prompts:
                want = plain(x, timestep, Condition(one, contexts[0]))
                assert torch.equal(graphed(x, timestep, Condition(other, contexts[1])), want)
        for one, other in prompts:
            for block, rows in noted_under(one, contexts[0]).rows.items():
                assert torch.equal(noted_under(other, contexts[1]).rows[block].key, rows.key)
                assert torch.equal(noted_under(other, contexts[1]).rows[block].value, rows.value)


@torch.no_grad()
def test_rows_lie_in_one_place_and_are_copied_only_where_two_prompts_need_it() -> None:
    _, graphed, _ = reusing("level")
    one, other = (graphed.prompt(text) for text in TEXTS)
    places = set()
    for seed in range(2):
        context = graphed.context(tiers(seed))
        for size, timestep in ((2, 900.0), (2, 800.0), (4, 700.0), (4, 600.0)):
            graphed(wave((1, 16, 9, size, size), timestep), timestep, Condition(one, context))
            places.add(noted_under(one, context).rows[1].key.data_ptr())
    assert len(places) == 1, "for all chunks, levels and steps"
    graphed(wave((1, 16, 9, 4, 4), 0.1), 600.0, Condition(other, context))
    (place,) = places
    assert noted_under(other, context).rows[1].key.data_ptr() == place
    assert noted_under(one, context).rows[1].key.data_ptr() != place


@torch.no_grad()
def test_what_a_chunk_and_a_prompt_remember_goes_with_them() -> None:
    _, graphed, _ = reusing("level")
    prompt, context = graphed.prompt(TEXTS[0]), graphed.context(tiers(0))
    for timestep in (900.0, 800.0):
        graphed(wave((1, 16, 9, 4, 4), timestep), timestep, Condition(prompt, context))
    memos = [weakref.ref(prompt.memo), weakref.ref(context.memo), weakref.ref(noted_under(prompt, context))]
    del prompt, context
    gc.collect()
    assert [memo() for memo in memos] == [None, None, None]


@pytest.mark.parametrize("is_used", [True, False])
@torch.no_grad()
def test_recording_leaves_nothing_noted_by_the_forwards_that_were_tried(is_used: bool) -> None:  # noqa: FBT001
    known: list[int] = []

    def pays(*_: object) -> bool:
        known.append(len(noted_under(prompt, context).rows))
        return is_used

    _, graphed, _ = reusing("chunk", pays)
    prompt, context = graphed.prompt(TEXTS[0]), graphed.context(tiers(0))
    for timestep in (900.0, 300.0):
        graphed(wave((1, 16, 9, 4, 4), 0.2), timestep, Condition(prompt, context))
    assert known == [0, 2], "none while the forward that notes is tried, then those of both blocks"


@torch.no_grad()
def test_recording_for_one_prompt_keeps_the_rows_of_another() -> None:
    plain, graphed, _ = reusing("chunk")
    prompts = [(plain.prompt(text), graphed.prompt(text)) for text in TEXTS]
    contexts = plain.context(tiers(0)), graphed.context(tiers(0))
    for size, which in ((2, 0), (4, 1), (4, 0)):  # the second notes on a level where nothing was recorded yet
        x, (one, other) = wave((1, 16, 9, size, size), 0.2 + which), prompts[which]
        want = plain(x, 500.0, Condition(one, contexts[0]))
        assert torch.equal(graphed(x, 500.0, Condition(other, contexts[1])), want)


@pytest.mark.parametrize("reuse", ["off", "level", "chunk"])
@torch.no_grad()
def test_what_a_recording_reads_is_there_as_long_as_it_is(reuse: HistoryReuse) -> None:
    capture = DroppedCapture()
    graphed = TransformerDenoiser(small_transformer(), history_reuse=reuse)
    graphed.run = GraphedTransformer(graphed.transformer, capture, lambda *_: True)
    for seed in range(2):
        condition = Condition(graphed.prompt(TEXTS[seed]), graphed.context(tiers(seed)))
        for side in (2, 4, 8):
            for timestep in (900.0, 500.0):
                graphed(wave((1, 16, 9, side, side), 0.3), timestep, condition)
        del condition  # prompts and chunks go, recordings stay
    assert len(capture.reads) >= 3 and min(len(read.memory) for read in capture.reads) > 10
    assert capture.all_there()
