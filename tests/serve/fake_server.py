"""Servers with a fake maker, each in a process of its own, to be killed.

They are forked from a process that has imported everything already: ten starts cost as much as one.
"""

import contextlib
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from heliograph.errors import UserError
from heliograph.serve.server import serve
from heliograph.serve.settings import Limits, Settings
from tests.serve.fakes import FakeMaker

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["pytest", "tests.serve.fake_server"])


@dataclass
class FakeServer:
    """A server in another process."""

    process: ForkServerProcess
    url: str
    errors: Path

    def kill(self) -> None:
        """As `kill -9` does."""
        self.process.kill()
        self.process.join()

    def end(self) -> int:
        """What it ends with."""
        self.process.join(20)
        assert self.process.exitcode is not None, "it did not end"
        return self.process.exitcode

    def said(self) -> str:
        """What it wrote to stderr."""
        return self.errors.read_text(encoding="utf-8")


@contextlib.contextmanager
def process(folder: Path, seconds: float = 0.0) -> Iterator[FakeServer]:
    """A server on this folder, whose chunks take so many seconds; `url` is empty where it ends before it listens."""
    folder.mkdir(parents=True, exist_ok=True)
    errors = folder.parent / f"{folder.name}-{time.monotonic_ns()}.stderr"
    here, there = FORKS.Pipe(duplex=False)
    started = FORKS.Process(target=run, args=(folder, seconds, errors, there))
    started.start()
    there.close()
    try:
        with contextlib.suppress(EOFError):
            yield FakeServer(started, here.recv(), errors)
            return
        yield FakeServer(started, "", errors)
    finally:
        started.kill()
        started.join()


def run(folder: Path, seconds: float, errors: Path, address: Connection) -> None:
    """The other process."""
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), 2)
    settings = Settings(folder, port=0, limits=Limits(min_free_bytes=1))
    try:
        serve(settings, lambda: FakeMaker(seconds=seconds), address.send)
    except UserError as error:
        address.close()
        sys.exit(str(error))
