"""Which examples come when: sections, epochs, buckets, shares, ranks and resuming."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor

from heliograph.data.clips import DataError
from heliograph.data.loader import Drawing, Loader, ShardSource, Share
from heliograph.data.sections import anchor_of, cut_history, first_window
from heliograph.data.shards import open_shards
from heliograph.train.stage import Batch
from tests.data.videos import counting, write_shards

EIGHT = dict.fromkeys(range(1, 9), (3, 121))
"""Eight clips of three windows."""


def source(folder: Path, batch_size: int = 2, num_draws: int = 1, seed: int = 0) -> ShardSource:
    return ShardSource([Share(open_shards(folder))], Drawing(batch_size, 19, num_draws, seed))


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("eight"), EIGHT)


def names(batch: Batch) -> list[int]:
    """Which clips a batch holds."""
    assert batch.text is not None
    return [int(row) for row in batch.text[:, 0, 0]]


def chunk_of(batch: Batch, row: int) -> int:
    """Which chunk of its clip an example is."""
    return int((batch.chunk[row, 0, 0, 0, 0] % 100) // 9)


def frames(latents: Tensor) -> list[float]:
    """The frame numbers that test latents carry."""
    return latents[0, :, 0, 0].tolist()


@pytest.mark.parametrize(("chunk", "empty"), [(0, 19), (1, 10), (2, 1), (3, 0), (7, 0)])
def test_history_is_the_nineteen_frames_before_the_chunk_with_zeros_before_the_clip(chunk: int, empty: int) -> None:
    windows = counting(1, 8)
    first = first_window(chunk, 19)
    history, target = cut_history(windows[first : chunk + 1], 19)
    assert frames(target) == [100 + 9 * chunk + t for t in range(9)]
    assert frames(history) == [0.0] * empty + [100 + t for t in range(9 * chunk - 19 + empty, 9 * chunk)]


def test_only_the_windows_that_memory_reaches_are_read() -> None:
    assert [first_window(chunk, 19) for chunk in range(6)] == [0, 0, 0, 0, 1, 2]


def test_the_anchor_is_the_first_frame_and_zero_for_the_chunk_that_makes_it() -> None:
    first = torch.ones(4, 1, 2, 2)
    assert not anchor_of(first, 0).any() and torch.equal(anchor_of(first, 1), first)


def test_an_example_holds_together(eight: Path) -> None:
    data = source(eight)
    for number in range(8):
        (batch,) = data.batch(number)
        for row, name in enumerate(names(batch)):
            chunk = chunk_of(batch, row)
            windows = counting(name, 3)
            history, target = cut_history(windows[: chunk + 1], 19)
            assert torch.equal(batch.chunk[row], target) and torch.equal(batch.history[row], history)
            assert torch.equal(batch.anchor[row], anchor_of(windows[0, :, :1], chunk))
            assert batch.text is not None and not batch.text[row, 2:].any() and batch.text.shape == (2, 6, 3)


def test_an_epoch_shows_every_clip_once(eight: Path) -> None:
    data = source(eight)
    assert data.batches_per_epoch == 4
    for epoch in range(3):
        seen = [name for number in range(4) for name in names(data.batch(4 * epoch + number)[0])]
        assert sorted(seen) == list(range(1, 9))


def test_epochs_differ_in_order_and_seeds_in_everything(eight: Path) -> None:
    def order(data: ShardSource, epoch: int) -> list[int]:
        return [name for number in range(4) for name in names(data.batch(4 * epoch + number)[0])]

    data = source(eight)
    assert order(data, 0) != order(data, 1) and order(data, 0) != order(source(eight, seed=1), 0)


def test_every_chunk_of_a_clip_is_equally_likely(eight: Path) -> None:
    data = source(eight, batch_size=8)
    drawn = [data.batch(epoch)[0] for epoch in range(75)]
    counts = Counter(chunk_of(batch, row) for batch in drawn for row in range(8))
    assert all(abs(counts[chunk] - 200) < 45 for chunk in range(3))


def test_two_draws_are_of_the_same_clips_and_independent(eight: Path) -> None:
    data = source(eight, batch_size=8, num_draws=2)
    pairs = []
    for epoch in range(20):
        one, two = data.batch(epoch)
        assert names(one) == names(two)
        pairs += [(chunk_of(one, row), chunk_of(two, row)) for row in range(8)]
    agreeing = sum(a == b for a, b in pairs)
    assert 30 < agreeing < 80  # a third of 160, not all and not none


def test_a_batch_holds_clips_of_one_size_and_length(tmp_path: Path) -> None:
    folder = write_shards(tmp_path, {**EIGHT, **dict.fromkeys(range(11, 17), (2, 81))})
    data = source(folder)
    kinds = []
    for number in range(data.batches_per_epoch):
        inside = {name > 10 for name in names(data.batch(number)[0])}
        assert len(inside) == 1
        kinds.append(inside.pop())
    assert Counter(kinds) == {False: 4, True: 3} and kinds != sorted(kinds)


def test_what_fills_no_batch_waits_for_another_epoch(eight: Path) -> None:
    data = source(eight, batch_size=3)
    assert data.batches_per_epoch == 2
    seen = {name for number in range(12) for name in names(data.batch(number)[0])}
    assert seen == set(range(1, 9))


def test_a_bucket_without_a_whole_batch_is_an_error_that_counts(eight: Path) -> None:
    with pytest.raises(DataError, match=r"no 9 clips of one size and length.*8 of 121 frames 16x16"):
        source(eight, batch_size=9)


def test_shares_are_met_and_an_epoch_keeps_its_length(eight: Path, tmp_path: Path) -> None:
    few = write_shards(tmp_path, dict.fromkeys((91, 92), (3, 121)))
    shares = [Share(open_shards(eight), 1.0), Share(open_shards(few), 4.0)]
    data = ShardSource(shares, Drawing(2, 19))
    seen = Counter(name > 90 for number in range(data.batches_per_epoch) for name in names(data.batch(number)[0]))
    assert seen == {False: 2, True: 8}


def test_equal_shares_show_every_clip_once(eight: Path, tmp_path: Path) -> None:
    few = write_shards(tmp_path, dict.fromkeys((91, 92), (3, 121)))
    data = ShardSource([Share(open_shards(eight)), Share(open_shards(few))], Drawing(2, 19))
    seen = Counter(name for number in range(data.batches_per_epoch) for name in names(data.batch(number)[0]))
    assert seen == dict.fromkeys([*EIGHT, 91, 92], 1)


def test_ranks_divide_the_batches_and_none_runs_out(eight: Path) -> None:
    loaders = [Loader(source(eight, batch_size=1), rank, 3) for rank in range(3)]
    one = Loader(source(eight, batch_size=1))
    for _ in range(6):  # 18 batches, two epochs and a part of the third
        together = [names(loader.next()[0]) for loader in loaders]
        assert together == [names(one.next()[0]) for _ in range(3)]
    for loader in [*loaders, one]:
        loader.close()


def test_a_loader_goes_on_in_the_middle_of_an_epoch(eight: Path) -> None:
    first = Loader(source(eight, num_draws=2))
    for _ in range(6):
        first.next()
    state = first.state()
    assert state == {"batches": 6}
    second = Loader(source(eight, num_draws=2))
    second.next()
    second.restore(state)
    for _ in range(5):
        for a, b in zip(first.next(), second.next(), strict=True):
            assert torch.equal(a.chunk, b.chunk) and torch.equal(a.history, b.history)
    first.close()
    second.close()


def test_a_run_goes_on_with_another_number_of_processes(eight: Path) -> None:
    two = [Loader(source(eight), rank, 2) for rank in range(2)]
    for loader in two:
        loader.next()
    one = Loader(source(eight))
    one.restore(two[0].state())
    assert [names(one.next()[0]) for _ in range(2)] == [names(loader.next()[0]) for loader in two]
    three = Loader(source(eight), 0, 3)
    with pytest.raises(DataError, match="number of processes"):
        three.restore({"batches": 2})
    for loader in [*two, one, three]:
        loader.close()


def test_damaged_shards_are_a_data_error_that_names_the_file(tmp_path: Path) -> None:
    folder = write_shards(tmp_path, EIGHT)
    for shard in (folder / "shards").iterdir():
        shard.write_bytes(shard.read_bytes()[:-100])
    loader = Loader(source(folder))
    with pytest.raises(DataError, match=r"shards/0000\d.safetensors is missing or damaged"):
        for _ in range(4):
            loader.next()
    loader.close()


def test_a_folder_that_was_not_prepared_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="heliograph prepare"):
        open_shards(tmp_path)
    (write_shards(tmp_path / "a", EIGHT) / "index.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(DataError, match=r"line 1 of .*index.jsonl is damaged"):
        open_shards(tmp_path / "a")
    write_shards(tmp_path / "b", {})
    with pytest.raises(DataError, match="holds no clip"):
        open_shards(tmp_path / "b")


@pytest.mark.parametrize("change", [{"batch_size": 0}, {"num_draws": 0}])
def test_a_drawing_of_nothing_is_refused(change: dict[str, int]) -> None:
    with pytest.raises(DataError):
        Drawing(**{"batch_size": 1, "memory_frames": 19, **change})
