"""Worker processes that end with the one that started them, however that ends."""

import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor


def worker_pool(workers: int) -> ProcessPoolExecutor:
    """A pool of so many processes; they end at once when this process is gone, even if it was killed.

    Spawned, not forked: a forked process would lack the threads of this one, PyTorch's among them. Left to itself, a
    worker outlives a parent that was killed: it goes on with the calls that wait, and then waits for more for ever.
    """
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_end_with_parent)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is None:
        raise RuntimeError("this is no worker: it has no parent process")

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="end with parent", daemon=True).start()
