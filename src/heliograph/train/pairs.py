"""ODE pairs on disk: a teacher's paths for a list of prompts, made once, and the source that trains on them.

pairs.json                  who made them and how
pairs/00000.safetensors     the paths for one prompt; the prompt itself is in the file's metadata
"""

import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from heliograph.config import MemoryConfig, SamplerConfig
from heliograph.data.clips import DataError, Size
from heliograph.data.loader import Drawing
from heliograph.errors import OutputError
from heliograph.media.target import write_whole
from heliograph.memory import History
from heliograph.model.denoiser import TransformerDenoiser
from heliograph.seeds import SeedsOfMany
from heliograph.shapes import LATENT_STRIDE
from heliograph.text import check_prompt
from heliograph.train.ode import OdePairs, OdePlan, Student, followed_trails, prompt_seeds, teacher_trails
from heliograph.train.prompted import prompted

PAIRS_FILE, PAIRS_FOLDER = "pairs.json", "pairs"

Encode = Callable[[str], Float[Tensor, "1 l d"]]
"""From a prompt to its embedding."""


@dataclass(frozen=True)
class Followed:
    """Whose chunks are remembered instead of the teacher's: a student with its name, and how it is sampled."""

    model: str
    denoiser: TransformerDenoiser
    sampler: SamplerConfig


@dataclass(frozen=True)
class Teacher:
    """Who makes the paths: a multiscale model with its name, what encodes prompts, and what it is guided away from.

    `stride` is its pixels per latent cell. With a `student` it goes on from that one's chunks instead of its own.
    """

    model: str
    denoiser: TransformerDenoiser
    encode: Encode
    negative: str
    memory: MemoryConfig
    stride: int = LATENT_STRIDE
    student: Followed | None = None


@dataclass(frozen=True)
class PairsInfo:
    """What all files of a folder have in common; `size` is height and width in pixels.

    `student` is whose chunks are remembered, None where these are the teacher's own; the rest is the teacher's, who
    walked every `every`-th chunk.
    """

    model: str
    size: Size
    num_chunks: int
    seed: int
    steps: tuple[int, ...]
    guidance_scale: float
    negative: str
    student: str | None = None
    every: int = 1

    @property
    def walked(self) -> tuple[int, int]:
        """Which chunks have paths: how many chunks a video has, and every which of them. A batch has one kind."""
        return self.num_chunks, self.every


def read_prompts(file: Path) -> list[str]:
    """One prompt a line, blank lines left out.

    Raises:
        DataError: the file cannot be read or holds no prompt.
        UserError: a line is no prompt.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise DataError(f"{file} cannot be read ({error}); give a text file with one prompt a line") from error
    prompts = [check_prompt(line) for line in lines if line.strip()]
    if not prompts:
        raise DataError(f"{file} holds no prompt; write one a line")
    return prompts


def make_pairs(
    prompts: Sequence[str],
    output: Path,
    teacher: Teacher,
    plan: OdePlan,
    size: Size,
    *,
    seed: int = 0,
    batch_size: int = 1,
    on_pair: Callable[[int], None] | None = None,
) -> int:
    """Make the missing files of `output`, one for each prompt; returns how many were made now.

    A file depends on its prompt, the seed and the plan alone, whatever was made before or, but for rounding, together
    with it: `batch_size` prompts go through the teacher at once.

    Raises:
        DataError: `output` holds pairs of another teacher, student, plan, size or seed, the batch is empty, or
            chunks are left out and no student makes them.
        OutputError: the disk is full or fails.
    """
    if batch_size < 1:
        raise DataError(f"batch_size={batch_size} makes nothing; use 1 or more")
    if plan.every > 1 and teacher.student is None:
        raise DataError(f"every={plan.every} leaves chunks out, and there is no student to make them; name a --student")
    try:
        (output / PAIRS_FOLDER).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{output} cannot be written ({error.strerror}); choose another place") from error
    _settle(output, _info(teacher, plan, size, seed))
    files = [output / PAIRS_FOLDER / f"{number:05}.safetensors" for number in range(len(prompts))]
    missing = [(file, prompt) for file, prompt in zip(files, prompts, strict=True) if _prompt_of(file) != prompt]
    done = len(prompts) - len(missing)
    if on_pair is not None and done:
        on_pair(done)
    for first in range(0, len(missing), batch_size):
        together = missing[first : first + batch_size]
        traced = trace([prompt for _, prompt in together], teacher, plan, size, seed)
        for (file, prompt), pairs in zip(together, traced, strict=True):
            write_whole(file, save(pairs.to_tensors(), metadata={"prompt": prompt}))
            done += 1
            if on_pair is not None:
                on_pair(done)
    return len(missing)


def trace(prompts: Sequence[str], teacher: Teacher, plan: OdePlan, size: Size, seed: int) -> list[OdePairs]:
    """The teacher's paths for some prompts, from text alone, on the CPU; noise of each prompt's own."""
    denoiser, student, count = teacher.denoiser, teacher.student, len(prompts)
    text = torch.cat([teacher.encode(prompt) for prompt in prompts])
    negative = teacher.encode(teacher.negative).expand(count, -1, -1)
    channels = denoiser.transformer.config["in_channels"]
    cells = (size[0] // teacher.stride, size[1] // teacher.stride)
    history = History.empty((count, channels, *cells), teacher.memory, denoiser.device)
    seeds = SeedsOfMany([prompt_seeds(seed, prompt, denoiser.device) for prompt in prompts])
    walk = (denoiser, history, prompted(denoiser, text, negative), plan, seeds)
    if student is None:
        made = OdePairs.of_teacher(text, tuple(teacher_trails(*walk)))
    else:
        other = Student(student.denoiser, prompted(student.denoiser, text, negative), student.sampler)
        trails, remembered = zip(*followed_trails(*walk, other), strict=True)
        made = OdePairs(text, trails, remembered)
    pairs = OdePairs.from_tensors({name: tensor.float().cpu() for name, tensor in made.to_tensors().items()})
    return [pairs.row(row) for row in range(count)]


class PairSource:
    """Batches of ODE pairs by number: every epoch a random order of all files, what fills no batch left out.

    Folders may have paths of other chunks than others have (`PairsInfo.walked`); a batch has one kind.
    """

    def __init__(self, folders: Sequence[Path], drawing: Drawing) -> None:
        """Look at the folders, which may have been made by several processes, each with a part of the prompts.

        Raises:
            DataError: one holds no pairs, they are not of one teacher and size, or those with paths of the same chunks
                are too few for a batch.
        """
        self.drawing = drawing
        self.infos = tuple(read_pairs_info(folder) for folder in folders)
        first, *_ = self.infos
        of_one = partial(replace, seed=0, student=None, num_chunks=1, every=1)
        for folder, info in zip(folders, self.infos, strict=True):
            if of_one(info) != of_one(first):
                raise DataError(
                    f"{folder} holds other pairs than {folders[0]}: {info} and {first}; "
                    "train on pairs of one teacher and size (their seeds, students and chunks may differ)"
                )
        kinds = [info.walked for info in self.infos]
        self.files = {
            file: kind
            for folder, kind in zip(folders, kinds, strict=True)
            for file in sorted((folder / PAIRS_FOLDER).glob("*.safetensors"))
        }
        counts = Counter(self.files.values())
        for kind in kinds:
            if counts[kind] < drawing.batch_size:
                places = " and ".join(str(folder) for folder, each in zip(folders, kinds, strict=True) if each == kind)
                raise DataError(
                    f"{places}: {counts[kind]} prompts, a batch needs {drawing.batch_size}; make more, "
                    "or use a smaller batch"
                )
        self.batches_per_epoch = len(self._plan(0))

    def batch(self, number: int) -> tuple[OdePairs, ...]:
        """One draw: these have no two sides."""
        epoch, position = divmod(number, self.batches_per_epoch)
        return (OdePairs.join([_read(file) for file in self._plan(epoch)[position]]),)

    def fingerprint(self) -> str:
        """Number of prompts, whose they are, size and seeds; the same however folders share the prompts."""
        return f"{len(self.files)} ODE pairs, {', '.join(dict.fromkeys(map(str, self.infos)))}"

    def _plan(self, epoch: int) -> list[list[Path]]:
        """The files of every batch of an epoch: all in a random order, a batch where it is full with its kind."""
        order = list(self.files)
        random.Random(f"{self.drawing.seed}/pairs/{epoch}").shuffle(order)
        begun: dict[tuple[int, int], list[Path]] = {}
        plan: list[list[Path]] = []
        for file in order:
            batch = begun.setdefault(self.files[file], [])
            batch.append(file)
            if len(batch) == self.drawing.batch_size:
                plan.append(begun.pop(self.files[file]))
        return plan


def read_pairs_info(folder: Path) -> PairsInfo:
    """What `pairs.json` says.

    Raises:
        DataError: it is missing or damaged.
    """
    file = folder / PAIRS_FILE
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        return PairsInfo(**{**values, "size": tuple(values["size"]), "steps": tuple(values["steps"])})
    except FileNotFoundError:
        raise DataError(f"{folder} holds no {PAIRS_FILE}; make pairs with heliograph prepare --ode-pairs") from None
    except (OSError, TypeError, ValueError, KeyError) as error:
        raise DataError(f"{file} is damaged ({error}); make the pairs again in another folder") from error


def _info(teacher: Teacher, plan: OdePlan, size: Size, seed: int) -> PairsInfo:
    return PairsInfo(
        teacher.model,
        size,
        plan.num_chunks,
        seed,
        plan.teacher.steps,
        plan.teacher.guidance.scale,
        teacher.negative,
        None if teacher.student is None else teacher.student.model,
        plan.every,
    )


def _settle(output: Path, info: PairsInfo) -> None:
    if not (output / PAIRS_FILE).exists():
        write_whole(output / PAIRS_FILE, json.dumps(asdict(info), indent=2).encode() + b"\n")
        return
    there = read_pairs_info(output)
    if there != info:
        raise DataError(f"{output} holds other pairs: {there} there, {info} now; use another folder")


def _prompt_of(file: Path) -> str | None:
    """The prompt of a finished file; None where there is none that can be read."""
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="pt") as pairs:
            return (pairs.metadata() or {}).get("prompt")
    except (OSError, SafetensorError):
        return None


def _read(file: Path) -> OdePairs:
    try:
        with safe_open(file, framework="pt") as pairs:
            tensors: dict[str, torch.Tensor] = {name: pairs.get_tensor(name) for name in pairs.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise DataError(f"{file} is missing or damaged ({error}); delete it and make it again") from error
    return OdePairs.from_tensors(tensors)
