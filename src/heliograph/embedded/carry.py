"""What distillation changed in one model, in another: a teacher that was trained on gets the few steps of its student.

A student that began as its teacher differs from it by little, and the same difference does the same where the teacher
has moved on (task vectors, Ilharco et al., arXiv 2212.04089): the sum is sampled in the student's steps before it has
seen a path of its own teacher. Regression on such paths (`embedded-ode`) goes on from there.
"""

import json
import shutil
from pathlib import Path

import torch
from torch import Tensor

from heliograph.checkpoint import NATIVE_FILE, find_model, native_values
from heliograph.data.world_cache import code_digest
from heliograph.embedded.recode import check_free, draft_of
from heliograph.embedded.render import open_codec, size_of
from heliograph.errors import UserError
from heliograph.model.transformer import HeliosTransformer3DModel
from heliograph.train.start import StartPoint, load_start


def carry(student: str, teacher: str, model: str, folder: Path) -> None:
    """Write `student` with the size and text encoder of `model` and the transformer model + student − teacher.

    `folder` is written whole or not at all; how it is sampled and decoded is the student's.

    Args:
        student: what was distilled from `teacher`.
        teacher: what `model` was trained on from.
        model: the same network, its latents of the same code; of any size in pixels.

    Raises:
        CheckpointError: one of the models is not there or damaged.
        UserError: they are of different networks or codes, or there is something in the place of `folder`.
    """
    check_free(folder)
    if code_digest(open_codec(model)) != code_digest(open_codec(student)):
        raise UserError(f"{model} and {student} have latents of different codes; carry over between models of one code")
    network = load_start(StartPoint(model), torch.float32)
    add_difference(network, *(load_start(StartPoint(name), torch.float32) for name in (student, teacher)))
    height, width = size_of(model)
    source = find_model(student)
    with draft_of(source, folder, "transformer", "text_encoder", NATIVE_FILE) as draft:
        network.save_pretrained(draft / "transformer")
        shutil.copytree(find_model(model) / "text_encoder", draft / "text_encoder")
        native = native_values(source) | {"height": height, "width": width}
        (draft / NATIVE_FILE).write_text(json.dumps(native, indent=2) + "\n", encoding="utf-8")


@torch.no_grad()
def add_difference(
    network: HeliosTransformer3DModel, student: HeliosTransformer3DModel, teacher: HeliosTransformer3DModel
) -> None:
    """Add to every weight of `network` the student's less the teacher's.

    Raises:
        UserError: the three are not of the same layers and sizes.
    """
    states: list[dict[str, Tensor]] = [one.state_dict() for one in (network, student, teacher)]
    shapes = [{name: tuple(value.shape) for name, value in state.items()} for state in states]
    if not shapes[0] == shapes[1] == shapes[2]:
        other = shapes[1] if shapes[1] != shapes[0] else shapes[2]
        odd = min(name for name in shapes[0].keys() | other.keys() if shapes[0].get(name) != other.get(name))
        raise UserError(
            f"the networks differ, first in {odd}: {shapes[0].get(odd, 'nothing')} in the one to add to, "
            f"{other.get(odd, 'nothing')} in another; carry over between models of one network"
        )
    for name, value in states[0].items():
        value.add_(states[1][name] - states[2][name])
