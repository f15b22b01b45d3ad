"""Worker processes end with the one that started them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from heliograph.workers import worker_pool
from tests.waiting import wait_for

PARENT = """
import sys
from heliograph.workers import worker_pool
from tests.test_workers import tell_and_sleep

if __name__ == "__main__":
    with worker_pool(2) as pool:
        list(pool.map(tell_and_sleep, [sys.argv[1]] * 6))
"""


def tell_and_sleep(folder: str) -> None:
    """Leave a file of this process' number, and be busy for longer than any test waits."""
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(300)


def process_number(_: int) -> int:
    """Whose call it was."""
    return os.getpid()


def is_running(pid: int) -> bool:
    """Whether there is such a process that is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_calls_are_made_in_other_processes() -> None:
    with worker_pool(2) as pool:
        assert os.getpid() not in set(pool.map(process_number, range(4)))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_busy_workers_end_when_their_parent_is_killed(tmp_path: Path, ending: signal.Signals) -> None:
    script, seen = tmp_path / "parent.py", tmp_path / "seen"
    script.write_text(PARENT)
    seen.mkdir()
    root = str(Path(__file__).parents[1])
    parent = subprocess.Popen([sys.executable, str(script), str(seen)], env={**os.environ, "PYTHONPATH": root})
    try:
        wait_for(lambda: len(list(seen.iterdir())) == 2)
        workers = [int(file.name) for file in seen.iterdir()]
        assert all(is_running(pid) for pid in workers)
        parent.send_signal(ending)
        assert parent.wait(30) == -ending
        wait_for(lambda: not any(is_running(pid) for pid in workers))
    finally:
        parent.kill()
    assert len(list(seen.iterdir())) == 2, "no call that waited was begun"
