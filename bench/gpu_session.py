"""Many items of docs/gpu_todo.md in one process, in order of worth, within a time that is given.

python bench/gpu_session.py results --seconds 280                            # one H100 or H200, the 14B shape
python bench/gpu_session.py results --seconds 280 --only facts,exact,errors
python bench/gpu_session.py results --seconds 900 --shapes small --device cpu   # tries that everything runs

Starting Python and filling 28 GB with random weights take longer than many a measurement, so both are done once. Every
item writes its JSON and its table as soon as it is measured, and one line into `summary.txt`; an item that fails leaves
its traceback and the next one begins; one that would take longer than what is left is left out. Approximations are made
on modules of their own over the same tensors, so the exact model and diffusers stay as they are to the end.
"""

import argparse
import faulthandler
import gc
import signal
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import psutil
import torch
from gpu_items import ITEMS, Item
from gpu_state import Bench

from heliograph.bench.subject import SHAPES
from heliograph.media.target import write_whole

GRACE_SECONDS = 20.0
"""How much longer than it was thought to an item may take before it is stopped, where the time as a whole allows."""


class OutOfTimeError(Exception):
    """An item took longer than it may."""


@contextmanager
def stopped_after(seconds: float) -> Iterator[None]:
    """Raise `OutOfTimeError` in the block once it has run for so long."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise OutOfTimeError(f"stopped after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.1))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def attempt(bench: Bench, item: Item) -> None:
    """Measure one item if there is time; whatever happens, the next one can begin."""
    if bench.seconds_left < item.seconds:
        bench.say(f"{item.name}: left out, {bench.seconds_left:.0f} s are left and it needs about {item.seconds:.0f}")
        return
    start = time.monotonic()
    try:
        with stopped_after(min(bench.seconds_left, item.seconds + max(GRACE_SECONDS, item.seconds))):
            item.run(bench)
    except Exception as error:  # whatever a device, a driver or a compiler may raise
        text = "".join(traceback.format_exception(error))
        write_whole(bench.folder / f"{item.name}.error.txt", text.encode())
        bench.say(f"{item.name}: FAILED\n" + "\n".join(text.strip().splitlines()[-6:])[-1500:])
        del error
    bench.say(f"{item.name}: took {time.monotonic() - start:.1f} s, {bench.seconds_left:.0f} s are left")
    gc.collect()
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()


def chosen(only: str | None) -> Sequence[Item]:
    """The items that were named, by letter or by name; all of them if none was.

    Raises:
        SystemExit: there is no such item.
    """
    if only is None:
        return ITEMS
    words = only.split(",")
    unknown = set(words) - {item.letter for item in ITEMS} - {item.name for item in ITEMS}
    if unknown:
        names = ", ".join(f"{item.letter} ({item.name})" for item in ITEMS)
        raise SystemExit(f"gpu_session.py: there is no {', '.join(sorted(unknown))}; items are {names}")
    # In the order in which they were named, so that a few can be put first.
    return [item for word in words for item in ITEMS if word in (item.letter, item.name)]


def main() -> None:
    """Measure item after item."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="folder, made if it is not there")
    parser.add_argument("--seconds", type=float, default=280, help="from the start of this program to its end")
    parser.add_argument("--only", help="letters or names of items, with commas, in the order to run them in")
    parser.add_argument("--shapes", choices=list(SHAPES), default="14b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--chunks", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--compile-whole",
        action="store_true",
        help="compile diffusers' transformer as one, as the released script does: minutes a size; else block by block",
    )
    arguments = parser.parse_args()
    faulthandler.enable()  # what ends the process from outside of Python leaves a trace, too
    started = time.monotonic() - (time.time() - psutil.Process().create_time())  # before libraries were loaded
    items = chosen(arguments.only)
    arguments.results.mkdir(parents=True, exist_ok=True)
    bench = Bench(
        folder=arguments.results,
        shape=arguments.shapes,
        device=torch.device(arguments.device),
        chunks=arguments.chunks,
        rounds=arguments.rounds,
        compiling="whole" if arguments.compile_whole else "by blocks",
        ends=started + arguments.seconds,
    )
    for item in items:
        attempt(bench, item)


if __name__ == "__main__":
    main()
