"""What the tests of the server share."""

from collections.abc import Iterator

import pytest
from selenium.webdriver import Chrome

from tests.serve.browser import chromium


@pytest.fixture(scope="session")
def browser() -> Iterator[Chrome]:
    """One browser for all tests; they are skipped where there is none."""
    with chromium() as started:
        yield started
