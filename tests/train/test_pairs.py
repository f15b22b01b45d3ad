"""ODE pairs on disk: made once, gone on with, read in batches."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from heliograph.config import MemoryConfig
from heliograph.data.clips import DataError
from heliograph.data.loader import Drawing
from heliograph.model.denoiser import TransformerDenoiser
from heliograph.presets import DISTILLED, MID
from heliograph.train.ode import OdePlan
from heliograph.train.pairs import Followed, PairSource, Teacher, make_pairs, read_prompts
from tests.small import randomise, small_transformer, wave

PROMPTS = ["a red fish", "a blue bird"]
FEW_STEPS = type(MID)(MID.schedule, (1, 1, 1), None, MID.guidance)
ONE_STEP = replace(DISTILLED, steps=(1, 1, 1), first_chunk_steps=None)
PLAN = OdePlan(FEW_STEPS, DISTILLED, num_chunks=1)


def encode(prompt: str) -> Tensor:
    return wave((1, 4, 32), float(len(prompt)))


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return Teacher("small", TransformerDenoiser(small_transformer()), encode, "bad", MemoryConfig())


@pytest.fixture(scope="module")
def folder(teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("pairs") / "out"
    assert make_pairs(PROMPTS, output, teacher, PLAN, (64, 64)) == 2
    return output


def test_a_file_holds_every_level_at_the_students_positions_and_its_end(folder: Path) -> None:
    (batch,) = PairSource([folder], Drawing(1, 19)).batch(0)
    assert len(batch.chunks) == 1 and [trail.states.shape for trail in batch.chunks[0]] == [
        (5, 1, 16, 9, side, side) for side in (2, 4, 8)
    ]
    assert all(len(trail.timesteps) == 4 for trail in batch.chunks[0])


def test_no_two_prompts_begin_from_the_same_noise(folder: Path) -> None:
    (batch,) = PairSource([folder], Drawing(2, 19)).batch(0)
    one, other = batch.chunks[0][0].states[0]
    assert not torch.allclose(one, other)


def test_what_is_made_is_not_made_again_and_does_not_depend_on_the_rest(
    folder: Path, teacher: Teacher, tmp_path: Path
) -> None:
    assert make_pairs(PROMPTS, folder, teacher, PLAN, (64, 64)) == 0
    assert make_pairs(PROMPTS[1:], tmp_path, teacher, PLAN, (64, 64)) == 1
    (alone,) = PairSource([tmp_path], Drawing(1, 19)).batch(0)
    both = PairSource([folder], Drawing(1, 19))
    matches = [torch.equal(alone.text, both.batch(number)[0].text) for number in range(2)]
    same = both.batch(matches.index(True))[0]
    assert torch.equal(alone.chunks[0][2].states, same.chunks[0][2].states)


def test_prompts_that_go_through_the_teacher_together_give_what_each_gives_alone(
    folder: Path, teacher: Teacher, tmp_path: Path
) -> None:
    seen: list[int] = []
    assert make_pairs(PROMPTS, tmp_path, teacher, PLAN, (64, 64), batch_size=2, on_pair=seen.append) == 2
    assert seen == [1, 2]
    (together,), (apart,) = (PairSource([place], Drawing(2, 19)).batch(0) for place in (tmp_path, folder))
    assert torch.equal(together.text, apart.text)
    for one, other in zip(together.chunks[0], apart.chunks[0], strict=True):
        assert float((one.states - other.states).abs().max()) < 1e-4 * float(other.states.abs().max())
    with pytest.raises(DataError, match="batch_size=0 makes nothing"):
        make_pairs(PROMPTS, tmp_path, teacher, PLAN, (64, 64), batch_size=0)


def test_an_epoch_shows_every_pair_once(folder: Path) -> None:
    source = PairSource([folder], Drawing(1, 19))
    for epoch in range(3):
        texts = {float(source.batch(2 * epoch + number)[0].text.sum()) for number in range(2)}
        assert len(texts) == 2


def test_prompts_shared_between_folders_are_the_batches_of_one(folder: Path, teacher: Teacher, tmp_path: Path) -> None:
    halves = [tmp_path / "a", tmp_path / "b"]
    for half, prompt in zip(halves, PROMPTS, strict=True):
        assert make_pairs([prompt], half, teacher, PLAN, (64, 64)) == 1
    whole, parts = PairSource([folder], Drawing(1, 19)), PairSource(halves, Drawing(1, 19))
    assert whole.fingerprint() == parts.fingerprint()
    for number in range(4):
        (one,), (other,) = whole.batch(number), parts.batch(number)
        assert torch.equal(one.text, other.text) and torch.equal(one.chunks[0][2].states, other.chunks[0][2].states)


def test_folders_of_other_seeds_train_together_and_those_of_another_teacher_do_not(
    folder: Path, teacher: Teacher, tmp_path: Path
) -> None:
    make_pairs(PROMPTS[:1], tmp_path / "seed", teacher, PLAN, (64, 64), seed=1)
    source = PairSource([folder, tmp_path / "seed"], Drawing(3, 19))
    assert "seed=0" in source.fingerprint() and "seed=1" in source.fingerprint()
    make_pairs(PROMPTS[:1], tmp_path / "other", replace(teacher, model="another"), PLAN, (64, 64))
    with pytest.raises(DataError, match=r"holds other pairs than .* train on pairs of one teacher and size"):
        PairSource([folder, tmp_path / "other"], Drawing(1, 19))


def test_a_students_own_chunks_are_remembered_and_mix_with_the_teachers(
    folder: Path, teacher: Teacher, tmp_path: Path
) -> None:
    model, plan = small_transformer(), replace(PLAN, num_chunks=2)
    randomise(model)
    teacher = replace(teacher, denoiser=TransformerDenoiser(model))
    student = Followed("few", teacher.denoiser, ONE_STEP)
    apart, own = tmp_path / "followed", tmp_path / "own"
    assert make_pairs(PROMPTS[:1], apart, replace(teacher, student=student), plan, (64, 64)) == 1
    assert make_pairs(PROMPTS[:1], own, teacher, plan, (64, 64)) == 1
    (followed,), (alone,) = (PairSource([place], Drawing(1, 19)).batch(0) for place in (apart, own))
    assert torch.equal(followed.chunks[0][2].states, alone.chunks[0][2].states), "nothing was remembered yet"
    assert not torch.equal(followed.remembered[0], alone.remembered[0])
    assert not torch.equal(followed.chunks[1][2].states, alone.chunks[1][2].states)
    with pytest.raises(DataError, match="holds other pairs"):
        make_pairs(PROMPTS[:1], apart, teacher, plan, (64, 64))
    source = PairSource([apart, own], Drawing(2, 19))
    assert "student='few'" in source.fingerprint() and source.batch(0)[0].remembered[1].shape[0] == 2


def test_a_long_video_of_a_student_has_paths_of_every_so_many_chunks(teacher: Teacher, tmp_path: Path) -> None:
    plan = replace(PLAN, num_chunks=3, every=2)
    followed = replace(teacher, student=Followed("few", teacher.denoiser, ONE_STEP))
    assert make_pairs(PROMPTS[:1], tmp_path / "long", followed, plan, (64, 64)) == 1
    (batch,) = PairSource([tmp_path / "long"], Drawing(1, 19)).batch(0)
    assert [len(trails) for trails in batch.chunks] == [3, 0, 3] and len(batch.remembered) == 3
    with pytest.raises(DataError, match="every=2 leaves chunks out, and there is no student"):
        make_pairs(PROMPTS[:1], tmp_path / "alone", teacher, plan, (64, 64))
    assert not (tmp_path / "alone").exists()
    with pytest.raises(DataError, match="holds other pairs"):
        make_pairs(PROMPTS[:1], tmp_path / "long", followed, replace(plan, every=1), (64, 64))


def test_folders_with_paths_of_other_chunks_train_together_and_a_batch_has_one_kind(
    teacher: Teacher, tmp_path: Path
) -> None:
    student = replace(teacher, student=Followed("few", teacher.denoiser, ONE_STEP))
    prompts = ["a red fish", "a blue boat at night", "a white bird", "a green fish by day"]
    short, long = tmp_path / "short", tmp_path / "long"
    make_pairs(prompts, short, teacher, PLAN, (64, 64))
    make_pairs(prompts[:2], long, student, replace(PLAN, num_chunks=3, every=2), (64, 64))
    source = PairSource([short, long], Drawing(2, 19))
    assert source.batches_per_epoch == 3
    for epoch in range(3):
        batches = [source.batch(3 * epoch + number)[0] for number in range(3)]
        assert sorted(len(batch.chunks) for batch in batches) == [1, 1, 3]
        assert all(batch.text.shape[0] == 2 for batch in batches)
        assert len({float(row.sum()) for batch in batches for row in batch.text if len(batch.chunks) == 1}) == 4
    with pytest.raises(DataError, match=r"long: 2 prompts, a batch needs 3; make more, or use a smaller batch"):
        PairSource([short, long], Drawing(3, 19))


def test_pairs_of_another_teacher_are_not_mixed_in(folder: Path, teacher: Teacher) -> None:
    with pytest.raises(DataError, match="holds other pairs"):
        make_pairs(PROMPTS, folder, teacher, PLAN, (64, 128))


def test_a_damaged_file_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs.json").write_bytes((folder / "pairs.json").read_bytes())
    (tmp_path / "pairs" / "00000.safetensors").write_bytes(b"torn")
    with pytest.raises(DataError, match=r"00000.safetensors is missing or damaged"):
        PairSource([tmp_path], Drawing(1, 19)).batch(0)


def test_too_few_pairs_for_a_batch_are_counted(folder: Path) -> None:
    with pytest.raises(DataError, match="2 prompts, a batch needs 3"):
        PairSource([folder], Drawing(3, 19))


def test_prompts_come_one_a_line(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red fish\n\n  a bird \n")
    assert read_prompts(tmp_path / "prompts.txt") == ["a red fish", "a bird"]
    (tmp_path / "prompts.txt").write_text("\n")
    with pytest.raises(DataError, match="holds no prompt"):
        read_prompts(tmp_path / "prompts.txt")
