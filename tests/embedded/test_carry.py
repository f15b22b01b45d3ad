"""What distillation changed, carried over to a teacher that was trained on."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from heliograph.checkpoint import find_model, native_values
from heliograph.embedded.carry import add_difference
from heliograph.embedded.larger import larger
from heliograph.embedded.making import carry
from heliograph.errors import UserError
from heliograph.pipeline import HeliosPipeline
from heliograph.train.start import StartPoint, load_start
from tests.small import small_transformer

TEACHER = str(Path(__file__).parents[2] / "runs" / "teacher")


def call(*arguments: str | Path) -> None:
    CliRunner().invoke(carry, [str(argument) for argument in arguments], catch_exceptions=False)


def test_a_teacher_that_did_not_move_becomes_its_student_in_its_own_size(tmp_path):
    larger(TEACHER, tmp_path / "model", (64, 128))
    call("tiny", TEACHER, tmp_path / "model", tmp_path / "folder")
    made, student = (load_start(StartPoint(name), torch.float32) for name in (str(tmp_path / "folder"), "tiny"))
    for name, value in student.state_dict().items():
        assert torch.allclose(made.state_dict()[name], value, atol=1e-6), name
    assert native_values(tmp_path / "folder") == native_values(find_model("tiny")) | {"height": 64, "width": 128}
    pipeline = HeliosPipeline.from_pretrained(str(tmp_path / "folder"), device="cpu")
    assert pipeline("a red fish", num_frames=33).frames.shape == (33, 64, 128, 3)


def test_what_training_on_changed_stays_beside_what_distillation_changed():
    torch.manual_seed(0)
    teacher, student, moved = (small_transformer() for _ in range(3))
    for change, network in ((0.25, student), (0.5, moved)):
        for own, start in zip(network.parameters(), teacher.parameters(), strict=True):
            own.data = start.data + change
    add_difference(moved, student, teacher)
    for own, start in zip(moved.parameters(), teacher.parameters(), strict=True):
        torch.testing.assert_close(own, start + 0.75)


def test_other_networks_other_codes_and_folders_that_are_there_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"the networks differ, first in .*carry over between models of one network"):
        add_difference(small_transformer(), small_transformer(), small_transformer(num_layers=3))
    larger(TEACHER, tmp_path / "coded", (64, 64))
    weights = tmp_path / "coded" / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    save_file(tensors | {"basis": -tensors["basis"]}, weights, metadata={"format": "pt"})
    with pytest.raises(UserError, match="latents of different codes; carry over between models of one code"):
        call("tiny", TEACHER, tmp_path / "coded", tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
    with pytest.raises(UserError, match="name another folder"):
        call("tiny", TEACHER, TEACHER, tmp_path)
