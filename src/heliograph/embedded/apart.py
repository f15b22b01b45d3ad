"""Work shared by several processes, and measurements that take an hour: what is measured is kept, and not made again.

Beside the file of results lies a folder while a measurement is under way, one JSON file for each video. It is named
after the model and what is asked, so another model's measurements are not taken up, and it goes when all are in the
results.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from heliograph.checkpoint import native_values
from heliograph.embedded.results import weights_digest
from heliograph.media.target import write_whole
from heliograph.pipeline import HeliosPipeline
from heliograph.workers import worker_pool

Measure = Callable[[HeliosPipeline, int], dict[str, Any]]
"""What is measured of a model's video of this number; a function of a module, for it is sent to other processes."""


@contextmanager
def kept_beside(results: Path, name: str, pipeline: HeliosPipeline, *asked: object) -> Iterator[Path]:
    """The folder for the videos of measurement `name`; it goes when the block ends without an error.

    `asked` is what else the figures of one video depend on.
    """
    model = pipeline.folder.path
    about = json.dumps([weights_digest(model), native_values(model), *asked], sort_keys=True)
    folder = results.parent / f".{name}-{hashlib.blake2b(about.encode(), digest_size=6).hexdigest()}"
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    shutil.rmtree(folder)


def measured_apart(
    model: str, measure: Measure, count: int, folder: Path, workers: int, tell: Callable[[str], None]
) -> list[dict[str, Any]]:
    """What `measure` finds of videos 0 to `count` - 1, in their order.

    Args:
        model: name or folder, loaded once in each process.
        folder: where each finding is kept, as JSON; those that are there are taken.
        workers: processes.
        tell: told after each video how many there are.
    """
    files = [folder / f"{number:03}.json" for number in range(count)]
    missing = [number for number, file in enumerate(files) if not file.exists()]
    calls = [partial(_measure_one, model, measure, number, files[number]) for number in missing]
    call_apart(calls, workers, lambda done: tell(f"{count - len(missing) + done}/{count} videos"))
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def call_apart(calls: Sequence[Callable[[], object]], workers: int, tell: Callable[[int], None]) -> None:
    """Make all calls in so many processes; `tell` is told after each how many are done. An error ends it."""
    with worker_pool(workers) as pool:
        jobs = [pool.submit(call) for call in calls]
        try:
            for done, job in enumerate(as_completed(jobs), 1):
                job.result()
                tell(done)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _measure_one(model: str, measure: Measure, number: int, file: Path) -> None:
    write_whole(file, json.dumps(measure(_opened(model), number)).encode())


@lru_cache(maxsize=1)
def _opened(model: str) -> HeliosPipeline:
    return HeliosPipeline.from_pretrained(model)
