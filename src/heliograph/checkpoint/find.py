"""Models by name: the embedded one, a folder, or a hub id, which is downloaded."""

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata, resources
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage] - httpx or httpx2, by the client's version
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from heliograph.checkpoint.folder import INDEX_FILE, RANDOM_MARK, ModelFolder, first_line, read_folder
from heliograph.errors import CheckpointError

TINY = "tiny"
"""Name of the embedded model."""

RELEASED = ("BestWishYsh/Helios-Base", "BestWishYsh/Helios-Mid", "BestWishYsh/Helios-Distilled")
"""Hub ids of the released 14B models."""

PARTS = ("transformer", "scheduler", "vae", "text_encoder", "tokenizer")
"""Component folders that inference reads; the hub's `transformer_init` and `transformer_ode` are not among them."""

HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*", re.ASCII)


def open_model(name: str, cache: Path | None = None) -> ModelFolder:
    """Find the model `name` as `find_model` does and read its configuration."""
    return read_folder(find_model(name, cache))


def find_model(name: str, cache: Path | None = None) -> Path:
    """Folder of the model `name`: `tiny`, a folder, or a hub id `org/name`, which is downloaded if it is not here yet.

    Args:
        name: a folder that exists wins over a hub id of the same spelling; `tiny` is always the embedded model.
        cache: where this package keeps files of its own; None is `~/.cache/heliograph`. Downloads are kept in the hub
            client's cache, shared with every other program that uses it.

    Raises:
        CheckpointError: no such model, or the hub refused or could not be reached.
    """
    found = find_local(name, cache)
    return found if found is not None else _download(name)


def find_local(name: str, cache: Path | None = None) -> Path | None:
    """Folder of the model `name` where that needs no network; None for a hub id that was not downloaded yet.

    Raises:
        CheckpointError: the name is neither `tiny`, nor a model folder, nor spelt like a hub id.
    """
    if name == TINY:
        return _tiny(cache or default_cache())
    folder = _existing_folder(name)
    if folder is not None:
        return _checked_folder(folder)
    if not HUB_ID.fullmatch(name):
        raise CheckpointError(f"there is no model {name!r}: {_accepted()}")
    try:
        return _checked_folder(Path(snapshot_download(name, allow_patterns=_patterns(), local_files_only=True)))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def default_cache() -> Path:
    """Where this package keeps files of its own."""
    return Path.home() / ".cache" / "heliograph"


def _accepted() -> str:
    return f"use {TINY!r}, a folder that holds {INDEX_FILE}, or a hub id such as {', '.join(RELEASED)}"


def _existing_folder(name: str) -> Path | None:
    try:
        folder = Path(name).expanduser()
        return folder if name and folder.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # too long a name, an unknown home directory, a zero byte
        return None


def _checked_folder(folder: Path) -> Path:
    if (folder / INDEX_FILE).is_file():
        return folder
    if (folder.parent / INDEX_FILE).is_file():
        raise CheckpointError(f"{folder} is one component of a model; give the folder above it, {folder.parent}")
    raise CheckpointError(f"the folder {folder} holds no {INDEX_FILE}, so it is no model: {_accepted()}")


def _patterns() -> list[str]:
    return [INDEX_FILE, *(f"{part}/*" for part in PARTS)]


def _download(name: str) -> Path:
    """Fetch the components that inference needs; what is there already is kept."""
    with explained(name, _accepted()):
        return _checked_folder(Path(snapshot_download(name, allow_patterns=_patterns())))


@contextmanager
def explained(name: str, accepted: str) -> Iterator[None]:
    """Say in a CheckpointError why the hub does not give `name`; `accepted` is what else could be given."""
    try:
        yield
    except GatedRepoError as error:
        raise CheckpointError(
            f"{name} is open only to those its owners let in: ask on https://huggingface.co/{name}, "
            "then run 'hf auth login'"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise CheckpointError(
            f"there is no folder {name}, and the hub has no model of that name that you may see: {accepted}"
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise CheckpointError(
            f"there is no folder {name}, the hub model of that name is not completely downloaded, and the hub cannot "
            f"be reached; connect to the network, or {accepted}"
        ) from error
    except (HfHubHTTPError, HTTPError, OSError) as error:
        raise CheckpointError(
            f"{name} could not be downloaded ({first_line(error)}); look at the network and the free disk space, "
            "then try again: what has arrived is kept"
        ) from error


def _tiny(cache: Path) -> Path:
    """The embedded model if this installation has one, else the random model of the same size."""
    embedded = Path(str(resources.files("heliograph"))) / "assets" / TINY
    if (embedded / INDEX_FILE).is_file():
        return embedded
    # Only here: writing the model builds networks, which nobody else who looks for a folder needs.
    from heliograph.tiny import write_random_fast  # noqa: PLC0415

    return write_once(cache / f"tiny-random-{metadata.version('heliograph')}", write_random_fast)


def write_once(target: Path, write: Callable[[Path], object]) -> Path:
    """Make the random model `target` with `write(folder)` unless it is there; marked as random, and whole or absent.

    Several processes may do this at once: each writes a folder of its own, the first to finish gives it the name.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    if (target / INDEX_FILE).is_file():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f"{target.name}-", dir=target.parent))
    except OSError as error:
        raise CheckpointError(f"{target.parent} cannot be written ({first_line(error)}); make it writable") from error
    try:
        write(draft / TINY)
        (draft / TINY / RANDOM_MARK).write_text("These weights are random numbers: the model was never trained.\n")
        (draft / TINY).rename(target)
    except OSError as error:
        if not (target / INDEX_FILE).is_file():  # else another process was first, with the same model
            raise CheckpointError(f"{target} cannot be written ({first_line(error)}); is the disk full?") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target
