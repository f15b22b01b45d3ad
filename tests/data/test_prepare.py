"""Preparation: videos and captions in, shards out; stopped, damaged and repeated."""

import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from heliograph.data import prepare as preparation
from heliograph.data.clips import ClipRecord, ClipRules, DataError, decode_clip
from heliograph.data.prepare import Encoders, Prepared, encode_clip, prepare, to_unit
from heliograph.data.shards import ShardFolder, open_shards
from heliograph.errors import OutputError
from tests.data.videos import SMALL, caption, encoders, write_clip

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(scope="module")
def small_encoders(tiny_folder: Path) -> Encoders:
    return encoders(tiny_folder)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four good clips, one too short, one square, one damaged, one without a caption."""
    folder = tmp_path_factory.mktemp("clips")
    for number, name in enumerate(("a", "b", "c", "d")):
        caption(write_clip(folder / f"{name}.mp4", 81 + number, first=10 * number), f"a clip named {name}")
    caption(write_clip(folder / "short.mp4", 50), "too short")
    caption(write_clip(folder / "square.mp4", 81, 48, 48), "too square")
    (folder / "torn.mp4").write_bytes((folder / "a.mp4").read_bytes()[:600])
    caption(folder / "torn.mp4", "torn")
    write_clip(folder / "silent.mp4", 40)
    return folder


def skipped(folder: Path) -> dict[str, str]:
    lines = (folder / "skipped.jsonl").read_text().splitlines()
    return {json.loads(line)["id"]: json.loads(line)["reason"] for line in lines}


def everything(shards: ShardFolder) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    return {e.id: (shards.latents(e, 0, e.num_windows), shards.text(e)) for e in shards.entries}


def same(one: ShardFolder, other: ShardFolder) -> bool:
    a, b = everything(one), everything(other)
    return a.keys() == b.keys() and all(torch.equal(x, y) for name in a for x, y in zip(a[name], b[name], strict=True))


@pytest.fixture(scope="module")
def prepared(source: Path, small_encoders: Encoders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("shards") / "out"
    assert prepare(source, output, small_encoders, SMALL) == Prepared(total=8, stored=0, added=4, skipped=4)
    return output


def test_every_clip_is_stored_or_named_with_its_reason(prepared: Path) -> None:
    shards = open_shards(prepared)
    assert [(e.id, e.num_windows, e.num_frames, e.height, e.width) for e in shards.entries] == [
        (name, 2, 81, 32, 48) for name in "abcd"
    ]
    reasons = skipped(prepared)
    assert reasons.keys() == {"short", "square", "torn", "silent"}
    assert "50 frames of the 81" in reasons["short"] and "32x32" in reasons["square"]
    assert "no caption" in reasons["silent"] and "torn.mp4" in reasons["torn"]


def test_each_window_is_encoded_on_its_own(prepared: Path, source: Path, small_encoders: Encoders) -> None:
    shards = open_shards(prepared)
    record = next(r for r in preparation.read_source(source)[0] if r.id == "a")
    clip = decode_clip(record, SMALL)
    alone = replace(clip, windows=clip.windows[:1])
    expected = encode_clip(alone, small_encoders, SMALL.seed).latents
    assert torch.allclose(shards.latents(shards.entries[0], 0, 1), expected, rtol=2**-11, atol=1e-6)


def test_latents_are_drawn_from_the_posterior_not_its_middle(
    prepared: Path, source: Path, small_encoders: Encoders
) -> None:
    record = preparation.read_source(source)[0][0]
    clip = decode_clip(record, SMALL)
    one, other = (encode_clip(clip, small_encoders, seed).latents for seed in (0, 1))
    assert not torch.allclose(one, other) and torch.equal(one, encode_clip(clip, small_encoders, 0).latents)


def test_text_is_the_encoders_with_zero_rows_after_it(prepared: Path, small_encoders: Encoders) -> None:
    shards = open_shards(prepared)
    expected = small_encoders.text.encode(["a clip named b"])
    text = shards.text(shards.entries[1])
    assert torch.equal(text, expected.embedding[0]) and not text[expected.lengths[0] :].any()


def test_workers_change_nothing(prepared: Path, source: Path, small_encoders: Encoders, tmp_path: Path) -> None:
    counts = prepare(source, tmp_path / "out", small_encoders, SMALL, num_workers=2)
    assert counts == Prepared(total=8, stored=0, added=4, skipped=4)
    assert same(open_shards(tmp_path / "out"), open_shards(prepared)) and skipped(tmp_path / "out") == skipped(prepared)


def test_a_run_that_was_stopped_goes_on_and_ends_the_same(
    prepared: Path, source: Path, small_encoders: Encoders, tmp_path: Path
) -> None:
    def stop(counts: Prepared, record: object) -> None:
        if counts.added == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(source, tmp_path / "out", small_encoders, SMALL, on_clip=stop)
    assert len(open_shards(tmp_path / "out").entries) == 2
    (tmp_path / "out" / "index.jsonl").open("a").write('{"id": "half a li')  # as a power cut leaves it
    counts = prepare(source, tmp_path / "out", small_encoders, SMALL)
    assert counts == Prepared(total=8, stored=2, added=2, skipped=4)
    assert same(open_shards(tmp_path / "out"), open_shards(prepared))
    assert prepare(source, tmp_path / "out", small_encoders, SMALL).added == 0


def test_a_clip_that_was_mended_is_taken_the_next_time(source: Path, small_encoders: Encoders, tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    for name in ("a", "short"):
        (clips / f"{name}.mp4").write_bytes((source / f"{name}.mp4").read_bytes())
        caption(clips / f"{name}.mp4", name)
    assert prepare(clips, tmp_path / "out", small_encoders, SMALL).skipped == 1
    write_clip(clips / "short.mp4", 90)
    assert prepare(clips, tmp_path / "out", small_encoders, SMALL) == Prepared(2, 1, 1, 0)
    assert not skipped(tmp_path / "out")


class Deadly(ClipRecord):
    """A clip that ends any worker process that is handed it, as a crash inside the decoder would."""

    def __reduce__(self) -> tuple[object, ...]:
        return os._exit, (139,)


def test_a_decoder_that_crashes_costs_its_clip_alone(
    source: Path, small_encoders: Encoders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records, _ = preparation.read_source(source)
    chosen = [Deadly(**vars(record)) if record.id == "b" else record for record in records[1:3]]
    monkeypatch.setattr(preparation, "read_source", lambda _: (chosen, []))
    counts = prepare(source, tmp_path / "out", small_encoders, SMALL, num_workers=1)
    assert counts == Prepared(total=2, stored=0, added=1, skipped=1)
    assert "crash" in skipped(tmp_path / "out")["b"]


@pytest.mark.parametrize("change", [{"seed": 1}, {"min_frames": 82}])
def test_a_folder_that_was_prepared_differently_is_refused(
    prepared: Path, source: Path, small_encoders: Encoders, change: dict[str, int]
) -> None:
    with pytest.raises(DataError, match="prepared differently: rules"):
        prepare(source, prepared, small_encoders, replace(SMALL, **change))
    with pytest.raises(DataError, match="model is tiny there and other now"):
        prepare(source, prepared, replace(small_encoders, model="other"), SMALL)


def test_a_full_disk_is_named_and_what_was_stored_stays(
    source: Path, small_encoders: Encoders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from heliograph.data import shards

    write, written = shards.write_whole, []

    def full(path: Path, data: bytes) -> None:
        if path.suffix == ".safetensors" and written:
            raise OutputError(f"cannot write {path}: No space left on device; free some space")
        written.extend([path] if path.suffix == ".safetensors" else [])
        write(path, data)

    monkeypatch.setattr(shards, "write_whole", full)
    monkeypatch.setattr(preparation, "ShardWriter", partial(shards.ShardWriter, shard_bytes=1))  # a clip to a shard
    with pytest.raises(OutputError, match="No space left"):
        prepare(source, tmp_path / "out", small_encoders, SMALL)
    assert [entry.id for entry in open_shards(tmp_path / "out").entries] == ["a"]


def test_two_runs_do_not_write_one_folder(source: Path, small_encoders: Encoders, tmp_path: Path) -> None:
    def second(counts: Prepared, record: object) -> None:
        prepare(source, tmp_path / "out", small_encoders, SMALL)

    with pytest.raises(OutputError, match="another run is writing"):
        prepare(source, tmp_path / "out", small_encoders, SMALL, on_clip=second)


def test_bytes_become_pixels_in_minus_one_to_one() -> None:
    frames = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 2, 1).expand(1, 1, 2, 3).numpy()
    assert to_unit(frames).flatten().tolist() == [-1, 1] * 3


@pytest.mark.skipif(not REAL.is_dir(), reason="the real clips are not here")
def test_real_clips_are_prepared(small_encoders: Encoders, tmp_path: Path) -> None:
    for video in REAL.glob("*.mp4"):
        (tmp_path / video.name).symlink_to(video)
        caption(tmp_path / video.name, "a real clip")
    rules = ClipRules(buckets=((32, 48), (48, 32)), kept=((32, 48),), min_frames=81)
    counts = prepare(tmp_path, tmp_path / "out", small_encoders, rules)
    entries = {entry.id: entry.num_windows for entry in open_shards(tmp_path / "out").entries}
    assert counts == Prepared(2, 0, 2, 0) and entries == {"239_120_ori129": 3, "2_240_ori81": 2}
