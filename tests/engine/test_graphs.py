"""Recordings of the transformer: the same numbers as without, whatever changes between replays."""

import pytest
import torch
from torch import Tensor

from heliograph.engine.graphs import GraphedTransformer, capture_by_running
from heliograph.memory import Tiers
from heliograph.model.denoiser import Condition, TransformerDenoiser
from tests.small import random_history, small_transformer, wave

TEXTS = wave((1, 5, 32), 0.5), wave((1, 5, 32), 2.5)


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
