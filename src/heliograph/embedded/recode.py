"""A model folder that differs in a part from another: what `widen`, `finer` and `larger` end with."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from heliograph.checkpoint import set_usual_permissions
from heliograph.embedded.render import open_codec
from heliograph.errors import UserError
from heliograph.linear_autoencoder import LinearAutoencoder
from heliograph.model.transformer import HeliosTransformer3DModel


def linear_code(model: str) -> LinearAutoencoder:
    """The autoencoder of a model folder, float32, whose code is linear.

    Raises:
        UserError: it is of another kind.
    """
    code = open_codec(model).autoencoder
    if not isinstance(code, LinearAutoencoder):
        raise UserError(f"{model} has a {type(code).__name__}; a linear code is needed, as the embedded model has")
    return code


def write_recoded(
    model: Path, folder: Path, code: LinearAutoencoder, network: HeliosTransformer3DModel | None = None
) -> None:
    """Write `model` with another `code`, and with `network` where one is given, as `folder`, whole or not at all.

    Raises:
        UserError: there is something in the place of `folder`.
    """
    replaced = ("vae",) if network is None else ("vae", "transformer")
    with draft_of(model, folder, *replaced) as draft:
        code.save_pretrained(draft / "vae")
        if network is not None:
            network.save_pretrained(draft / "transformer")


@contextmanager
def draft_of(model: Path, folder: Path, *replaced: str) -> Iterator[Path]:
    """A copy of `model` without what is to be `replaced`; it becomes `folder` when the block ends without an error.

    Raises:
        UserError: there is something in the place of `folder`.
    """
    check_free(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as drafts:
        draft = Path(drafts) / folder.name
        shutil.copytree(model, draft, ignore=shutil.ignore_patterns(*replaced))
        yield draft
        set_usual_permissions(draft)
        draft.rename(folder)


def check_free(folder: Path) -> None:
    """Refuse to write where something is: before the work, and again at its end."""
    if folder.exists():
        raise UserError(f"{folder} is there already; name another folder")
