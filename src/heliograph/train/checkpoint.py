"""Checkpoints of a run: everything to go on from, written so that whoever is killed when loses nothing before.

A checkpoint is a folder `step-00000500` with what `torch.distributed.checkpoint` writes and a `state.json`. It is
written beside its place under another name and renamed when it is complete and on the disk. Checkpoints hold pickled
descriptions: go on from your own only.
"""

import json
import os
import pickle
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from heliograph.errors import CheckpointError, OutputError
from heliograph.train.ema import local_part
from heliograph.train.parallel import Parallel

PREFIX, PARTIAL, STATE_FILE = "step-", ".partial-", "state.json"

Tensors = dict[str, Tensor]
"""State by name; sharded tensors are stored shard by shard."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk: the number of finished steps, and what was stored beside the tensors."""

    path: Path
    step: int
    state: Mapping[str, Any]


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, folder: Path, parallel: Parallel, keep: int = 3) -> None:
        """Checkpoints in `folder`; the newest `keep` stay. Nothing is touched: looking at a run that lives is safe."""
        assert keep >= 1, keep
        self.folder, self.parallel, self.keep = folder, parallel, keep

    def newest(self) -> Checkpoint | None:
        """The checkpoint of the latest step, if there is one.

        Raises:
            CheckpointError: its `state.json` is damaged.
        """
        paths = sorted(path for path in self.folder.glob(f"{PREFIX}*") if (path / STATE_FILE).is_file())
        if not paths:
            return None
        file = paths[-1] / STATE_FILE
        try:
            state = json.loads(file.read_text(encoding="utf-8"))
            return Checkpoint(paths[-1], int(paths[-1].name.removeprefix(PREFIX)), state)
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{file} is damaged ({error}); delete {paths[-1]} to go on from the one before"
            ) from error

    def save(self, step: int, tensors: Tensors, state: Mapping[str, Any]) -> Path:
        """Write a checkpoint of `step` finished steps; every process calls this. Then remove the oldest ones.

        First what a killed process left half written goes, so only one run at a time may write here.

        Raises:
            OutputError: the disk is full or fails; the checkpoints before are untouched.
        """
        final = self.folder / f"{PREFIX}{step:08}"
        draft = self.folder / f"{PARTIAL}{step:08}"
        # In steps that all processes take together: one that fails alone would leave the others waiting.
        self._together(step, draft, lambda: self.parallel.is_first and self._clear_drafts())
        self._together(step, draft, lambda: _make_room(draft, tensors))
        self._together(step, draft, lambda: self._write(draft, tensors))
        self._together(step, draft, lambda: self.parallel.is_first and _finish(draft, final, state))
        self._prune()
        return final

    def load(self, checkpoint: Checkpoint, tensors: Tensors) -> None:
        """Fill `tensors` with what is stored; every process calls this. The number of processes may have changed.

        Raises:
            CheckpointError: the checkpoint holds other tensors than this run has, or is damaged.
        """
        try:
            stored = FileSystemReader(checkpoint.path).read_metadata().state_dict_metadata
        except (OSError, CheckpointException, pickle.UnpicklingError, EOFError, ValueError) as error:
            raise CheckpointError(f"{checkpoint.path} is damaged ({error}); delete it") from error
        _check_same(checkpoint.path, stored, tensors)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="torch.distributed is disabled")
                reader = FileSystemReader(checkpoint.path)
                load(dict(tensors), storage_reader=reader, no_dist=self.parallel.is_alone)
        except (OSError, RuntimeError, CheckpointException) as error:
            raise CheckpointError(
                f"{checkpoint.path} is damaged ({_reason(error)}); delete it to go on from the one before"
            ) from error

    def _write(self, draft: Path, tensors: Tensors) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as it is meant to be
            save(dict(tensors), storage_writer=FileSystemWriter(draft), no_dist=self.parallel.is_alone)

    def _together(self, step: int, draft: Path, act: Callable[[], object]) -> None:
        """Act in every process; where it fails in one, clear up and fail in all."""
        fault = None
        try:
            act()
        except (OSError, RuntimeError, CheckpointException) as error:
            fault = error
        if self.parallel.agree(wish=fault is not None):
            if self.parallel.is_first:
                shutil.rmtree(draft, ignore_errors=True)
            raise OutputError(
                f"the checkpoint of step {step} could not be written in {self.folder} ({_reason(fault)}); "
                "free space, then go on with --resume from the one before"
            ) from fault

    def _clear_drafts(self) -> None:
        for rest in self.folder.glob(f"{PARTIAL}*"):
            shutil.rmtree(rest)

    def _prune(self) -> None:
        if self.parallel.is_first:
            for old in sorted(self.folder.glob(f"{PREFIX}*"))[: -self.keep]:
                shutil.rmtree(old, ignore_errors=True)


def _make_room(draft: Path, tensors: Tensors) -> None:
    """Make the folder, and refuse a checkpoint that cannot fit before the first byte is written."""
    draft.mkdir(parents=True, exist_ok=True)
    needed = sum(local_part(tensor).nbytes for tensor in tensors.values())
    free = shutil.disk_usage(draft).free
    if free < needed:
        raise OSError(f"it needs {needed / 1e9:.2f} GB and {free / 1e9:.2f} GB are free")


def _finish(draft: Path, final: Path, state: Mapping[str, Any]) -> None:
    """Add the state and give the folder its name; the name is on the disk only after the content is."""
    with (draft / STATE_FILE).open("w", encoding="utf-8") as file:
        json.dump(state, file)
        file.flush()
        os.fsync(file.fileno())
    _sync_folder(draft)
    draft.rename(final)
    _sync_folder(final.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _check_same(path: Path, stored: Mapping[str, Any], tensors: Tensors) -> None:
    """Compare names and shapes with those of this run."""
    shapes = {n: tuple(m.size) for n, m in stored.items() if isinstance(m, TensorStorageMetadata)}
    missing = sorted(tensors.keys() - shapes.keys())
    extra = sorted(shapes.keys() - tensors.keys())
    wrong = sorted(n for n in tensors.keys() & shapes.keys() if tuple(tensors[n].shape) != shapes[n])
    faults = [
        f"{what}: {', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}"
        for what, names in (("missing", missing), ("not part of this run", extra), ("of another shape", wrong))
        if names
    ]
    if faults:
        raise CheckpointError(
            f"{path} is of another network or preset; {'; '.join(faults)}. Resume with the preset and the start that "
            "the run began with, or use a new output folder"
        )


def _reason(error: BaseException | None) -> str:
    if error is None:
        return "another process failed"
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    return " ".join(str(error).split())[:300] or type(error).__name__
