"""The benchmark: both engines do the same work on the same weights, and what is reported adds up."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from heliograph.bench.bench import BenchOptions, run_bench
from heliograph.bench.clock import MemoryWatch, PartClock, Spread
from heliograph.bench.report import Figures
from heliograph.bench.run import ChunkTime, Run, Watch, in_turn, make_ours, timed
from heliograph.bench.subject import Asked, Subject, guided_everywhere, random_subject, stored_subject
from heliograph.bench.theirs import MakeTheirs
from heliograph.config import SpeedConfig
from heliograph.errors import UserError
from heliograph.tiny import write_random_tiny
from heliograph.vae import LatentCodec
from tests.small import OutOfRange

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def subject(fast_folder: Path) -> Subject:
    """The random tiny model at one step on each level."""
    return stored_subject(str(fast_folder), "cpu", "float32", Asked((1, 1, 1)))


@pytest.fixture(scope="module")
def guided_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model that is sampled with guidance, as models are before their distillation."""
    folder = tmp_path_factory.mktemp("guided") / "mid"
    write_random_tiny(folder, variant="mid")
    return folder


def test_the_spread_of_measurements_is_their_median_and_ends() -> None:
    assert Spread.of([3.0, 1.0, 8.0]) == Spread(3.0, 1.0, 8.0)


def test_engines_take_turns_so_that_a_drift_of_the_machine_meets_both() -> None:
    order: list[str] = []
    works = [lambda: order.append("a"), lambda: order.append("b")]
    results = in_turn(works, 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert [len(result) for result in results] == [3, 3]


def test_a_part_s_clock_notes_every_call_while_it_watches() -> None:
    clock, layer = PartClock(CPU), torch.nn.Linear(64, 64)
    with clock.watching(layer):
        for _ in range(3):
            layer(torch.zeros(1, 64))
    layer(torch.zeros(1, 64))
    assert clock.num_calls == 3
    assert len(clock.seconds()) == 3 and min(clock.seconds()) > 0


def test_the_memory_watch_sees_what_was_freed_again() -> None:
    with MemoryWatch(CPU) as before:
        pass
    with MemoryWatch(CPU) as watch:
        block = np.ones(300_000_000, np.uint8)
        watch._is_done.wait(0.2)
        del block
    assert watch.host_bytes - before.host_bytes > 250_000_000


def test_both_engines_ask_the_network_equally_often_on_the_same_weights(subject: Subject) -> None:
    theirs = MakeTheirs(subject)
    ours = timed(make_ours, subject, 3)
    run = timed(theirs, subject, 3)
    assert ours.num_calls == run.num_calls == 6 + 3 + 3
    assert len(ours.chunks) == len(run.chunks) == 3
    pointers = [p.data_ptr() for p in subject.transformer.parameters()]
    assert sorted(pointers) == sorted(p.data_ptr() for p in theirs.transformer.parameters())


def test_a_run_whose_decoding_fell_back_is_made_again(fast_folder: Path) -> None:
    subject = stored_subject(str(fast_folder), "cpu", "float32", Asked((1, 1, 1)))
    codec = LatentCodec(subject.engine.codec.autoencoder, OutOfRange())
    subject = replace(subject, engine=replace(subject.engine, codec=codec))
    run = timed(make_ours, subject, 2)
    assert codec.decoder is None and len(run.chunks) == 2
    assert run.num_calls == 6 + 3, "only the second run counts"


def test_guidance_is_weighed_by_both_engines(guided_model: Path) -> None:
    # Ours does not ask at all for the first two steps, whose velocity is zero, and asks for both branches in one pass
    # unless another core takes one of them.
    subject = stored_subject(str(guided_model), "cpu", "float32", Asked((3, 1, 1), (64, 64)))
    theirs = MakeTheirs(subject)
    assert subject.sampler.guidance.is_on and subject.engine.pairs_guidance
    passes = 1 if subject.engine.pairs_branches else 2
    assert timed(make_ours, subject, 2).num_calls == 2 * passes * (1 + 1 + 1)
    assert timed(theirs, subject, 2).num_calls == 2 * 2 * (3 + 1 + 1)


def test_what_is_compared_is_guided_on_every_level(guided_model: Path) -> None:
    subject = stored_subject(str(guided_model), "cpu", "float32", Asked((3, 1, 1), (64, 64)))
    coarse = replace(subject.sampler.guidance, levels=1)
    partly = replace(subject, sampler=replace(subject.sampler, guidance=coarse))
    assert partly.as_json()["guidance"].endswith("on 1 level(s)")
    assert guided_everywhere(partly) == subject


@pytest.mark.parametrize("key", ["base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len"])
def test_their_schedule_is_that_of_the_model(subject: Subject, key: str) -> None:
    schedule = subject.sampler.schedule
    want = {
        "base_shift": schedule.base_shift,
        "max_shift": schedule.max_shift,
        "base_image_seq_len": schedule.base_tokens,
        "max_image_seq_len": schedule.max_tokens,
    }
    assert MakeTheirs(subject)._pipeline.scheduler.config[key] == want[key]


@pytest.mark.parametrize("engine", ["ours", "theirs"])
def test_parts_of_a_chunk_add_up_to_the_chunk_and_chunks_to_the_run(subject: Subject, engine: str) -> None:
    if engine == "ours":
        run = timed(make_ours, subject, 2)
    else:
        theirs = MakeTheirs(subject)
        run = timed(theirs, subject, 2)
    for chunk in run.chunks:
        assert min(chunk.transformer, chunk.decode) > 0
        assert chunk.transformer + chunk.decode + chunk.rest == pytest.approx(chunk.wall)
    assert sum(chunk.wall for chunk in run.chunks) < run.seconds
    assert run.chunks[0].wall <= run.first_frames <= run.seconds


def test_the_written_video_has_all_frames(subject: Subject, tmp_path: Path) -> None:
    # Theirs cuts 33·K frames to a multiple of four, and one.
    for name, make, count in (("ours", make_ours, 66), ("theirs", MakeTheirs(subject), 65)):
        make(subject, 2, Watch(CPU), tmp_path / f"{name}.npy")
        assert np.load(tmp_path / f"{name}.npy").shape == (count, 64, 64, 3)


def test_a_ratio_compares_the_medians_of_two_engines(subject: Subject) -> None:
    def figures(name: str, wall: float) -> Figures:
        chunks = (ChunkTime(2 * wall, wall, wall / 2), ChunkTime(wall, wall / 2, wall / 4))
        return Figures.of(name, [Run(chunks, 3 * wall, 2 * wall, 9, 0, 0)])

    from heliograph.bench.report import Report

    report = Report(subject, (figures("heliograph", 1.0), figures("diffusers", 2.5)), 1, 2, ("heliograph", "bench"))
    assert report.ratios == pytest.approx(dict.fromkeys(report.ratios, 2.5))
    assert len(report.ratios) == 5


def test_the_report_names_all_that_decides_a_figure(fast_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    options = BenchOptions(
        str(fast_folder), device="cpu", against="diffusers", steps=(1, 1, 1), chunks=2, rounds=1, json_file=file
    )
    told: list[str] = []
    report = run_bench(options, told.append)
    stored = json.loads(file.read_text())
    assert {"command", "commit", "device", "torch", "threads", "steps", "height", "transformer"} <= stored.keys()
    assert [figures["name"] for figures in stored["figures"]] == ["heliograph", "diffusers"]
    assert stored["ratios"].keys() == report.ratios.keys()
    text = "\n".join(report.lines())
    assert "1.0 frames/s" not in text
    assert all(word in text for word in ("end to end", "steady chunk", "host memory at most", "A-B-B-A"))
    assert any("warming up diffusers" in line for line in told)


def test_a_shape_with_random_weights_runs_without_any_file() -> None:
    subject = random_subject("small", "cpu", torch.bfloat16, Asked((1, 1, 1)))
    run = timed(make_ours, subject, 2)
    assert run.num_calls == 9
    assert subject.transformer.blocks[0].get_parameter("attn1.to_q.weight").dtype == torch.bfloat16
    assert subject.transformer.blocks[0].get_parameter("scale_shift_table").dtype == torch.float32


def test_what_is_approximated_is_measured_beside_the_weights_as_they_were(tmp_path: Path) -> None:
    speed, file = SpeedConfig(fp8=True, history_reuse="chunk"), tmp_path / "bench.json"
    options = BenchOptions(
        random_weights="small", device="cpu", against="diffusers", steps=(1, 1, 1), chunks=2, rounds=1,
        speed=speed, json_file=file,
    )  # fmt: skip
    run_bench(options, lambda _: None)
    stored = json.loads(file.read_text())
    assert len(stored["approximated"]) == 2
    assert stored["decoder"] == "AutoencoderKLWan float32"
    assert [figures["num_calls"] for figures in stored["figures"]] == [9, 9]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--random-weights", "7b"), "14b"),
        (("--chunks", "1"), "chunks=1"),
        (("--rounds", "0"), "rounds=0"),
        (("--steps", "1,1"), "2 level(s)"),
        (("--size", "100x64"), "height=100"),
        (("--against", "nobody"), "diffusers"),
    ],
)
def test_a_mistake_is_answered_with_what_to_do(
    options: tuple[str, ...], words: str, refused: Callable[..., str], model: tuple[str, str]
) -> None:
    assert words in refused("bench", *(() if "--random-weights" in options else model), *options)


def test_unknown_shapes_are_refused() -> None:
    with pytest.raises(UserError, match="14b"):
        random_subject("7b", "cpu", torch.float32, Asked())
