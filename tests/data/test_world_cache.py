"""A cache of the world: fresh latents, a batch that depends on its number alone, nothing rendered twice."""

from dataclasses import replace

import pytest
import torch

from heliograph.data import world_cache
from heliograph.data.clips import DataError
from heliograph.data.diorama import sample_record
from heliograph.data.diorama.render import render
from heliograph.data.loader import Drawing
from heliograph.data.selection import Selection
from heliograph.data.world import cell_share, unit_pixels
from heliograph.data.world_cache import (
    CacheInfo,
    Worldly,
    code_digest,
    encode_clips,
    missing_parts,
    read_parts,
    write_parts,
)
from heliograph.data.world_examples import WorldCacheSource
from heliograph.linear_autoencoder import LinearAutoencoder
from heliograph.vae import LatentCodec

WORLD = Worldly(lambda clip: sample_record(clip, "train"), lambda record, visit: f"{record.colour} {visit}")
CODEC = LatentCodec(LinearAutoencoder(decoder_dim=0).eval())
INFO = CacheInfo(num_clips=3, num_chunks=2, height=32, width=32, code=code_digest(CODEC))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world_cache, "CLIPS_PER_PART", 2)
        for part in missing_parts(path, INFO):
            write_parts(path, [part], INFO, WORLD, CODEC)
        yield path


def source(folder, weight=1.0, seed=0, *, still=0.0, opening=0.0, change=0.0, aligned=False):
    tokens = lambda captions: torch.tensor([[int(caption.split()[1])] for caption in captions])  # noqa: E731
    return WorldCacheSource(
        folder,
        WORLD,
        Drawing(3, 19, 1, seed, aligned),
        Selection(weight, still, opening, change_share=change),
        tokens=tokens,
    )


def test_an_epoch_shows_every_clip_once_with_a_caption_of_its_own_visit(folder):
    own = source(folder)
    for epoch in range(2):
        batch = own.batch(epoch)[0]
        assert batch.tokens.flatten().tolist() == [3 * epoch, 3 * epoch + 1, 3 * epoch + 2]
        assert len({tuple(chunk.flatten()[:50].tolist()) for chunk in batch.chunk}) == 3


def test_a_batch_depends_on_its_number_alone(folder):
    own = source(folder)
    later = own.batch(5)[0]
    own.batch(1)
    assert torch.equal(own.batch(5)[0].chunk, later.chunk)
    assert torch.equal(source(folder).batch(5)[0].history, later.history)
    assert not torch.equal(source(folder, seed=1).batch(5)[0].chunk, later.chunk)


def test_chunks_are_what_the_codec_makes_of_the_rendered_clip(folder):
    frames = [unit_pixels(render([WORLD.record(i)], [0], 66, 32, 32).frames[0]) for i in range(3)]
    fresh = [[CODEC.encode_chunk(part)[0] for part in each.split(33, dim=2)] for each in frames]
    batch = source(folder).batch(0)[0]
    for chunk, history, anchor in zip(batch.chunk, batch.history, batch.anchor, strict=True):
        errors = torch.tensor([[float((chunk - one).abs().max()) for one in clip] for clip in fresh])
        clip, place = divmod(int(errors.argmin()), 2)
        assert errors.min() < 1e-2
        if place == 0:
            assert not history.any() and not anchor.any()
        else:
            torch.testing.assert_close(history[:, -9:], fresh[clip][0], rtol=0, atol=1e-2)
            assert not history[:, :-9].any()
            torch.testing.assert_close(anchor, fresh[clip][0][:, :1], rtol=0, atol=1e-2)


def test_a_still_start_shows_the_first_picture_of_the_chunk_and_nothing_of_its_motion(folder):
    batch = source(folder, still=1.0).batch(0)[0]
    for chunk, history, anchor in zip(batch.chunk, batch.history, batch.anchor, strict=True):
        assert torch.equal(history[:, -1:], anchor) and not history[:, :-1].any()
        assert torch.equal(anchor, chunk[:, :1])


def test_openings_are_first_chunks_without_a_past_and_as_frequent_as_asked(folder):
    batch = source(folder, opening=1.0).batch(0)[0]
    assert not batch.history.any() and not batch.anchor.any()
    some, plain = source(folder, opening=0.5), source(folder)
    opened = total = 0
    for number in range(40):
        half, all_ = some.batch(number)[0], plain.batch(number)[0]
        first = [not history.any() for history in half.history]
        for row, is_first in enumerate(first):
            assert is_first or torch.equal(half.history[row], all_.history[row])
        opened, total = opened + sum(first), total + len(first)
    by_chance = 1 / some.info.num_chunks
    assert abs(opened / total - (0.5 + 0.5 * by_chance)) < 0.15
    assert "opening 0.5" in some.fingerprint() and "opening" not in plain.fingerprint()


def test_a_changed_example_dissolves_from_a_clip_of_another_scene_through_the_first_chunk_of_its_own(folder):
    changed, plain = source(folder, change=1.0), source(folder)
    clips = [changed.example(clip, 1) for clip in range(3)]
    scenes = [WORLD.record(clip).scene for clip in range(3)]
    assert len(set(scenes)) > 1
    share = torch.arange(1, 10).view(1, 9, 1, 1) / 9
    seen = 0
    for number in range(10):
        some, all_ = changed.batch(number)[0], plain.batch(number)[0]
        assert torch.equal(some.tokens, all_.tokens)
        for row in range(3):
            if not all_.history[row].any():
                assert torch.equal(some.chunk[row], all_.chunk[row]) and not some.history[row].any()
                continue
            own = next(i for i in range(3) if torch.equal(all_.chunk[row], clips[i][1]))
            before = next(i for i in range(3) if torch.equal(some.history[row], clips[i][0]))
            assert scenes[before] != scenes[own]
            assert torch.equal(some.anchor[row], clips[before][2])
            torch.testing.assert_close(some.chunk[row], torch.lerp(clips[before][1], clips[own][1], share))
            seen += 1
    assert seen > 5


def test_after_a_change_the_past_holds_the_dissolve_and_the_first_picture_stays_the_old_one(tmp_path):
    info = replace(INFO, num_chunks=3)
    for part in missing_parts(tmp_path, info):
        write_parts(tmp_path, [part], info, WORLD, CODEC)
    changed, plain = source(tmp_path, change=1.0), source(tmp_path)
    seen = 0
    for number in range(20):
        some, all_ = changed.batch(number)[0], plain.batch(number)[0]
        for row in range(3):
            is_third = bool(all_.history[row, :, 1].any())
            if not (is_third and torch.equal(some.chunk[row], all_.chunk[row])):
                continue  # the first two chunks of a clip, and a third in which the change happens
            clips = [changed.example(clip, 2) for clip in range(3)]
            own = next(i for i in range(3) if torch.equal(all_.chunk[row], clips[i][1]))
            before = next(i for i in range(3) if torch.equal(some.anchor[row], clips[i][2]))
            assert before != own
            assert torch.equal(some.history[row, :, :10], clips[before][0][:, :10])
            share = torch.arange(1, 10).view(1, 9, 1, 1) / 9
            expected = torch.lerp(clips[before][0][:, -9:], clips[own][0][:, -9:], share)
            torch.testing.assert_close(some.history[row, :, -9:], expected)
            seen += 1
    assert seen > 5


def test_late_clips_show_the_middle_of_a_video_with_its_first_picture_and_a_whole_past(tmp_path):
    info = replace(INFO, num_chunks=3, num_late=1)
    for part in missing_parts(tmp_path, info):
        write_parts(tmp_path, [part], info, WORLD, CODEC)
    assert [info.first_frame(clip) > 0 for clip in range(3)] == [False, False, True]
    frames = unit_pixels(render([WORLD.record(2)], [info.first_frame(2)], 99, 32, 32).frames[0])
    expected = [CODEC.encode_chunk(chunk)[0] for chunk in frames.split(33, dim=2)]
    begins = CODEC.encode_image(unit_pixels(render([WORLD.record(2)], [0], 1, 32, 32).frames[0])[:, :, 0])[0]
    own, seen = source(tmp_path, opening=0.7), 0
    for number in range(8):
        batch = own.batch(number)[0]
        for row in range(3):
            if float((batch.chunk[row] - expected[2]).abs().max()) > 1e-2:
                continue
            torch.testing.assert_close(batch.history[row, :, 1:10], expected[0], rtol=0, atol=1e-2)
            torch.testing.assert_close(batch.history[row, :, 10:], expected[1], rtol=0, atol=1e-2)
            torch.testing.assert_close(batch.anchor[row], begins, rtol=0, atol=1e-2)
            seen += 1
    assert seen == 8  # whatever the share of openings, a late clip does not open
    aligned = source(tmp_path, aligned=True)
    assert all(len(aligned.batch(number)[0].chunk) == 3 for number in range(3))
    assert "2 clips of it" in aligned.fingerprint()


def test_a_cache_of_late_clips_alone_or_without_room_for_a_past_is_refused():
    with pytest.raises(DataError, match="some must show how videos begin"):
        replace(INFO, num_late=3)
    with pytest.raises(DataError, match="use 3 or more"):
        replace(INFO, num_late=1)


def test_changes_are_as_frequent_as_asked_and_leave_the_other_examples_as_they_were(folder):
    mixed, plain = source(folder, change=0.3), source(folder)
    changed = able = 0
    for number in range(80):
        some, all_ = mixed.batch(number)[0], plain.batch(number)[0]
        for row in range(3):
            is_changed = not torch.equal(some.anchor[row], all_.anchor[row])
            assert is_changed or torch.equal(some.chunk[row], all_.chunk[row])
            changed, able = changed + is_changed, able + bool(all_.history[row].any())
    assert 0.2 < changed / able < 0.4
    assert "changed 0.3" in mixed.fingerprint() and "changed" not in plain.fingerprint()


def test_still_starts_are_as_frequent_as_asked_and_leave_the_others_as_they_were(folder):
    mixed, plain = source(folder, still=0.4), source(folder)
    still = total = 0
    for number in range(60):
        some, all_ = mixed.batch(number)[0], plain.batch(number)[0]
        rows = [bool(some.anchor[i].any() and not some.history[i, :, :-1].any()) for i in range(3)]
        for row, is_still in enumerate(rows):
            assert is_still or torch.equal(some.chunk[row], all_.chunk[row])
        still, total = still + sum(rows), total + len(rows)
    assert 0.3 < still / total < 0.5


def test_an_aligned_batch_shows_one_chunk_number_and_says_which(folder):
    seen = set()
    for number in range(12):
        batch = source(folder, still=0.5, aligned=True).batch(number)[0]
        assert {bool(history[:, :-1].any()) for history in batch.history} == {batch.number > 0}
        seen.add(batch.number)
    assert seen == {0, 1}


def test_only_clips_of_the_kind_that_is_asked_for_are_shown(folder):
    kind = WORLD.record(1).kind
    tokens = lambda captions: torch.zeros(len(captions), 1, dtype=torch.long)  # noqa: E731
    world = replace(WORLD, kinds={"crossings": lambda record: record.kind == kind})
    some = WorldCacheSource(folder, world, Drawing(3, 19), Selection(shows="crossings"), tokens=tokens)
    wanted = {clip for clip in range(3) if WORLD.record(clip).kind == kind}
    assert {some._clip(visit) for visit in range(9)} == wanted
    assert some.fingerprint() != source(folder).fingerprint() or len(wanted) == 3
    with pytest.raises(DataError, match="none of the 3 clips"):
        world = replace(WORLD, kinds={"crossings": lambda _record: False})
        WorldCacheSource(folder, world, Drawing(3, 19), Selection(shows="crossings"), tokens=tokens)


def test_weights_follow_the_subjects(folder):
    batch = source(folder, weight=5.0).batch(0)[0]
    shares = torch.stack(
        [
            torch.stack([cell_share(m) for m in render([WORLD.record(i)], [0], 66, 32, 32).mask[0].split(33)])
            for i in range(3)
        ]
    ).flatten(0, 1)
    for weight in batch.weight:
        assert min(float((weight[0] - 1 - 4 * share).abs().max()) for share in shares) < 0.02
    assert source(folder).batch(0)[0].weight is None


def test_only_missing_parts_are_made_again(folder):
    assert missing_parts(folder, INFO) == []
    part = next(iter(sorted((folder / "parts").iterdir())))
    content = part.read_bytes()
    part.unlink()
    assert missing_parts(folder, INFO) == [0]
    write_parts(folder, [0], INFO, WORLD, CODEC)
    assert part.read_bytes() == content


def test_clips_that_are_encoded_together_are_those_encoded_one_by_one():
    records, firsts = [WORLD.record(clip) for clip in range(4)], [0, 40, 0, 7]
    together = encode_clips(records, firsts, INFO, CODEC)
    apart = [encode_clips([record], [first], INFO, CODEC) for record, first in zip(records, firsts, strict=True)]
    assert together[0].shape == (4, 2, 16, 9, 4, 4) and together[1].shape == (4, 16, 1, 4, 4)
    for joined, single in zip(together, zip(*apart, strict=True), strict=True):
        torch.testing.assert_close(joined, torch.cat(single))


def test_parts_that_are_written_together_are_those_written_one_by_one(folder, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world_cache, "CLIPS_PER_PART", 2)
        write_parts(tmp_path, missing_parts(tmp_path, INFO), INFO, WORLD, CODEC)
    files = sorted((tmp_path / "parts").iterdir())
    assert len(files) == 2
    assert [file.read_bytes() for file in files] == [(folder / "parts" / file.name).read_bytes() for file in files]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_makes_the_same_cache_up_to_a_level_of_a_byte(folder, tmp_path):
    codec = LatentCodec(LinearAutoencoder(decoder_dim=0).eval().cuda())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world_cache, "CLIPS_PER_PART", 2)
        write_parts(tmp_path, missing_parts(tmp_path, INFO), INFO, WORLD, codec)
        for made, there in zip(read_parts(tmp_path, INFO), read_parts(folder, INFO), strict=True):
            torch.testing.assert_close(made.float(), there.float(), atol=0.05, rtol=0.01)


def test_another_cache_in_the_folder_is_refused(folder):
    with pytest.raises(DataError, match="another cache"):
        missing_parts(folder, replace(INFO, num_clips=4))


def test_a_damaged_part_is_named(folder, tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "cache.json").write_bytes((folder / "cache.json").read_bytes())
    (tmp_path / "parts" / "00000.safetensors").write_bytes(b"no")
    with pytest.raises(DataError, match=r"00000\.safetensors is missing or damaged"):
        source(tmp_path)


def test_the_digest_ignores_what_only_decodes_and_notices_the_code():
    wide = LinearAutoencoder(decoder_dim=4, refiner_dim=8)
    assert code_digest(LatentCodec(wide.eval())) == INFO.code
    wide.mean.data[0] = 1
    assert code_digest(LatentCodec(wide)) != INFO.code
