"""What is remembered between calls: each value is made once in its lifetime, and not longer."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from heliograph.model.memo import Forgetful, Memo, Memos
from heliograph.model.transformer import HeliosTransformer3DModel
from tests.small import small_transformer, wave, wave_tiers

TEXT, OTHER_TEXT = wave((1, 5, 32), 0.5), wave((1, 5, 32), 2.5)
TEXT_KEYS, TEXT_EMBEDDING = "blocks.1.attn2.to_k", "condition_embedder.text_embedder.linear_1"
TIERS = ("patch_long", "patch_mid", "patch_short")
TIME = "condition_embedder.time_embedder.linear_1"


@contextmanager
def counted(model: nn.Module, *names: str) -> Iterator[dict[str, int]]:
    """How often each named module ran."""
    calls = dict.fromkeys(names, 0)

    def count(name: str) -> object:
        def more(*_: object) -> None:
            calls[name] += 1

        return more

    handles = [model.get_submodule(name).register_forward_hook(count(name)) for name in names]
    yield calls
    for handle in handles:
        handle.remove()


@pytest.fixture(scope="module")
def model() -> HeliosTransformer3DModel:
    """The golden transformer; tests leave it as it is."""
    return small_transformer()


def run(model: HeliosTransformer3DModel, memos: Memos, timestep: float = 500.0, text: torch.Tensor = TEXT) -> None:
    """One call on a small chunk."""
    with torch.no_grad():
        model(wave((1, 16, 9, 4, 4), timestep), timestep, text, wave_tiers(8, 8), memos)


# The dictionary


def test_a_value_is_made_once_and_then_recalled() -> None:
    memo, made = Memo(), []

    def make() -> int:
        made.append(1)
        return len(made)

    assert not memo.holds("key")
    assert [memo.recall("key", make) for _ in range(3)] == [1, 1, 1]
    assert memo.holds("key")
    assert memo.recall("other", make) == 2


def test_nothing_is_a_value_too() -> None:
    memo, made = Memo(), []
    for _ in range(2):
        assert memo.recall("key", lambda: made.append(1)) is None
    assert made == [1]


def test_a_value_that_could_not_be_made_is_not_remembered() -> None:
    memo = Memo()

    def fail() -> int:
        raise RuntimeError("no memory left")

    with pytest.raises(RuntimeError):
        memo.recall("key", fail)
    assert not memo.holds("key")
    assert memo.recall("key", lambda: 7) == 7


def test_a_forgetful_memo_makes_every_value_anew() -> None:
    memo, made = Forgetful(), []
    for _ in range(2):
        memo.recall("key", lambda: made.append(1))
    assert made == [1, 1]
    assert not memo.holds("key")


def test_memos_share_nothing_by_default() -> None:
    one, other = Memos(), Memos()
    one.prompt.recall("key", lambda: 1)
    assert not any(memo.holds("key") for memo in (one.model, one.chunk, other.model, other.prompt, other.chunk))


# In the transformer


def test_text_keys_are_made_once_for_a_prompt(model: HeliosTransformer3DModel) -> None:
    prompt, tables = Memo(), Memo()
    with counted(model, TEXT_KEYS, TEXT_EMBEDDING) as calls:
        for _ in range(2):  # chunks
            chunk = Memo()
            for timestep in (900.0, 500.0):
                run(model, Memos(tables, prompt, chunk), timestep)
    assert calls == {TEXT_KEYS: 1, TEXT_EMBEDDING: 1}


def test_history_tokens_are_made_once_for_a_chunk(model: HeliosTransformer3DModel) -> None:
    tables, chunk = Memo(), Memo()
    with counted(model, *TIERS) as calls:
        for prompt, text in ((Memo(), TEXT), (Memo(), OTHER_TEXT)):
            for timestep in (900.0, 500.0):
                run(model, Memos(tables, prompt, chunk), timestep, text)
    assert calls == dict.fromkeys(TIERS, 1)


def test_block_0_normalises_the_history_s_keys_once_for_a_chunk(model: HeliosTransformer3DModel) -> None:
    lengths: list[int] = []
    handle = model.get_submodule("blocks.0.attn1.norm_k").register_forward_pre_hook(
        lambda _, args: lengths.append(args[0].shape[1])
    )
    chunk, tables = Memo(), Memo()
    for prompt, text in ((Memo(), TEXT), (Memo(), OTHER_TEXT)):
        for timestep in (900.0, 500.0):
            run(model, Memos(tables, prompt, chunk), timestep, text)
    run(model, Memos(tables))
    handle.remove()
    assert lengths == [40, *[36] * 4, 40, 36]


def test_timestep_rows_are_made_once_for_a_model(model: HeliosTransformer3DModel) -> None:
    tables = Memo()
    with counted(model, TIME) as calls:
        for timestep in (900.0, 500.0, 900.0, 500.0):
            run(model, Memos(model=tables), timestep)
    assert calls == {TIME: 3}  # 900, 500, and 0 for the history


def test_a_new_prompt_is_read_and_a_new_history_is_seen(model: HeliosTransformer3DModel) -> None:
    tables, x = Memo(), wave((1, 16, 9, 4, 4), 0.3)
    with torch.no_grad():
        for text in (TEXT, OTHER_TEXT):
            for tiers in (wave_tiers(8, 8), wave_tiers(8, 12)):
                got = model(x, 500.0, text, tiers, Memos(model=tables))
                assert torch.equal(got, model(x, 500.0, text, tiers))


def test_without_memos_everything_is_made_anew(model: HeliosTransformer3DModel) -> None:
    with counted(model, TEXT_KEYS, TIME, *TIERS) as calls, torch.no_grad():
        for _ in range(2):
            model(wave((1, 16, 9, 4, 4), 0.3), 500.0, TEXT, wave_tiers(8, 8))
    assert calls == {TEXT_KEYS: 2, TIME: 4, **dict.fromkeys(TIERS, 2)}


def test_a_failed_call_leaves_memos_that_the_next_call_can_use(model: HeliosTransformer3DModel) -> None:
    memos, x, tiers = Memos(), wave((1, 16, 9, 4, 4), 0.3), wave_tiers(8, 8)

    def fail(*_: object) -> None:
        raise RuntimeError("no memory left")

    handle = model.blocks[1].register_forward_pre_hook(fail)
    with torch.no_grad(), pytest.raises(RuntimeError):
        model(x, 500.0, TEXT, tiers, memos)
    handle.remove()
    with torch.no_grad():
        assert torch.equal(model(x, 500.0, TEXT, tiers, memos), model(x, 500.0, TEXT, tiers))
