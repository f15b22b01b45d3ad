"""The procedural world as a source of batches."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from heliograph.checkpoint import open_model
from heliograph.data.clips import DataError
from heliograph.data.loader import Drawing
from heliograph.data.world import WorldClips, WorldSource, cell_share
from heliograph.train.stage import Batch
from heliograph.vae import LatentCodec, load_autoencoder

CLIPS = WorldClips(32, 32, max_chunks=2)


@pytest.fixture(scope="module")
def codec(tiny_folder: Path) -> LatentCodec:
    return LatentCodec(load_autoencoder(open_model(str(tiny_folder)), torch.float32, torch.device("cpu")))


def lengths(captions: list[str]) -> Tensor:
    """An embedding that tells captions apart."""
    return torch.tensor([[[float(len(caption))]] for caption in captions])


def test_a_batch_is_a_function_of_its_number(codec: LatentCodec) -> None:
    source = WorldSource(codec, lengths, CLIPS, Drawing(1, 19, num_draws=2))
    one, again, other = source.batch(3), source.batch(3), source.batch(4)
    assert all(
        torch.equal(a.chunk, b.chunk) and torch.equal(a.history, b.history) for a, b in zip(one, again, strict=True)
    )
    assert not torch.equal(one[0].chunk, other[0].chunk)
    assert one[0].text is not None and one[1].text is not None and torch.equal(one[0].text, one[1].text)


def test_shapes_are_those_of_prepared_data(codec: LatentCodec) -> None:
    batch: Batch = WorldSource(codec, lengths, CLIPS, Drawing(1, 19)).batch(0)[0]
    assert batch.chunk.shape == (1, 16, 9, 4, 4) and batch.history.shape == (1, 16, 19, 4, 4)
    assert batch.anchor.shape == (1, 16, 1, 4, 4) and batch.tokens is None and batch.weight is None


def test_a_clips_first_chunk_has_no_past_and_a_later_one_has(codec: LatentCodec) -> None:
    source = WorldSource(codec, lengths, CLIPS, Drawing(1, 19))
    kinds = set()
    for number in range(6):
        batch = source.batch(number)[0]
        is_first = not batch.history.any()
        assert is_first == (not batch.anchor.any())
        if not is_first:
            assert not batch.history[:, :, :10].any() and batch.history[:, :, 10:].abs().amax(dim=(0, 1, 3, 4)).all()
        kinds.add(is_first)
    assert kinds == {True, False}


def test_a_limited_world_shows_its_clips_again(codec: LatentCodec) -> None:
    source = WorldSource(codec, lengths, WorldClips(32, 32, num_records=2), Drawing(1, 19))
    assert source._record(0) == source._record(2) != source._record(1)


def test_tokens_take_the_place_of_embeddings(codec: LatentCodec) -> None:
    source = WorldSource.with_tokens(codec, lambda texts: torch.ones(len(texts), 4).long(), CLIPS, Drawing(1, 19))
    batch = source.batch(0)[0]
    assert batch.text is None and batch.tokens is not None and batch.tokens.shape == (1, 4)


def test_cells_that_show_a_subject_weigh_more(codec: LatentCodec) -> None:
    source = WorldSource(codec, lengths, WorldClips(32, 32, max_chunks=1, subject_weight=5.0), Drawing(1, 19))
    weight = source.batch(0)[0].weight
    assert weight is not None and weight.shape == (1, 1, 9, 4, 4)
    assert weight.min() >= 1 and 1 < weight.max() <= 5


def test_a_latent_frame_shows_one_pixel_frame_and_then_four_each() -> None:
    mask = torch.zeros(33, 8, 16)
    mask[0, :, :8] = 1
    mask[1:3] = 1
    share = cell_share(mask)
    assert share.shape == (9, 1, 2)
    assert share[:3, 0].tolist() == [[1, 0], [0.5, 0.5], [0, 0]]


def test_a_world_of_nothing_is_refused() -> None:
    with pytest.raises(DataError):
        WorldClips(32, 32, max_chunks=0)
