from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def no_unfinished_file_is_left(tmp_path: Path) -> Iterator[None]:
    """Whatever a test does to a sink, nothing half made lies about afterwards."""
    yield
    assert not list(tmp_path.rglob(".heliograph-*"))
