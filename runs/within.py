"""Train for so many seconds and no more, on a machine that is lent: look how fast steps are, then make those that fit.

python runs/within.py SECONDS PRESET --data DATA --output RUN [options of heliograph train]

The first stretch runs at the preset's full learning rate; it is stopped as by Ctrl-C, and `--resume` goes on to a last
step that is chosen so that the rate has fallen to 0 and the model is written when the time is up.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

LOOK_SECONDS = 25.0
"""Of steps whose pace is measured."""

MARGIN = 0.92
"""Of the time that is left, how much is planned for steps: later ones may be slower, and the model is to be written."""

LOG_EVERY, ENDLESS = 5, 100_000
"""Steps between figures, and more steps than any stretch makes."""


def main() -> None:
    """Both stretches."""
    began = time.monotonic()
    try:
        seconds, preset, options = float(sys.argv[1]), sys.argv[2], sys.argv[3:]
        metrics = Path(options[options.index("--output") + 1]) / "metrics.jsonl"
    except (IndexError, ValueError):
        raise SystemExit(
            "python runs/within.py SECONDS PRESET --data DATA --output RUN [options of heliograph train]"
        ) from None
    command = [sys.executable, "-m", "heliograph.cli", "train", preset, *options, "--log-every", str(LOG_EVERY)]
    first = subprocess.Popen([*command, "--max-steps", str(ENDLESS)])
    seen: list[tuple[int, float]] = []
    while first.poll() is None and (len(seen) < 3 or seen[-1][1] - seen[1][1] < LOOK_SECONDS):
        time.sleep(0.2)
        step = last_step(metrics)
        if step and (not seen or step > seen[-1][0]):
            seen.append((step, time.monotonic() - began))
    if first.poll() is not None:
        raise SystemExit(first.returncode or 1)
    first.send_signal(signal.SIGINT)
    first.wait()
    end = last_step(metrics) + steps_that_fit(seen, seconds - (time.monotonic() - began))
    print(f"{pace(seen):.2f} steps/s: {end} steps in all", flush=True)
    raise SystemExit(subprocess.run([*command, "--resume", "--max-steps", str(end)], check=False).returncode)


def steps_that_fit(seen: Sequence[tuple[int, float]], left: float) -> int:
    """How many more steps can be made in `left` seconds, at least one line of figures.

    `seen` are steps with the seconds, from the start, after which their figures came. The first ones come late, as
    kernels are chosen and memory is taken; coming back costs as much again.
    """
    return max(LOG_EVERY, int(MARGIN * (left - seen[0][1]) * pace(seen)))


def pace(seen: Sequence[tuple[int, float]]) -> float:
    """Steps a second once the first figures are there."""
    (step, then), (last, now) = seen[1], seen[-1]
    return (last - step) / (now - then)


def last_step(metrics: Path) -> int:
    """The last step that has figures; 0 where there are none. A line that is being written does not count yet."""
    lines = metrics.read_text().split("\n")[:-1] if metrics.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


if __name__ == "__main__":
    main()
