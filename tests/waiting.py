"""Waiting for what another thread or process does."""

import time
from typing import Any


def wait_for(condition: Any, seconds: float = 60.0) -> Any:
    """What `condition` gives as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)
    return value
