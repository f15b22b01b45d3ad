"""What the whole suite shares."""

from pathlib import Path

import pytest

from heliograph.tiny import write_random_fast, write_random_tiny


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random tiny model of the distilled variant. Do not write into it: copy it first."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_random_tiny(folder)
    return folder


@pytest.fixture(scope="session")
def fast_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random tiny model with this package's own autoencoder, which decodes much faster; diffusers cannot load it."""
    folder = tmp_path_factory.mktemp("models") / "fast"
    write_random_fast(folder)
    return folder

