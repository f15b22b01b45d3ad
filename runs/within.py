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
from pathlib import Path

LOOK_SECONDS = 25.0
"""Of steps whose pace is measured."""

MARGIN = 0.92
"""Of the time that is left, how much is planned for steps: later ones may be slower, and the model is to be written."""

LOG_EVERY, ENDLESS = 5, 100_000


def main() -> None:
    """Both stretches."""
    began, (seconds, preset, *options) = time.monotonic(), sys.argv[1:]
    command = ["heliograph", "train", preset, *options, "--log-every", str(LOG_EVERY)]
    metrics = Path(options[options.index("--output") + 1]) / "metrics.jsonl"
    first = subprocess.Popen([*command, "--max-steps", str(ENDLESS)])
    seen: list[tuple[int, float]] = []
    while first.poll() is None and (len(seen) < 3 or seen[-1][1] - seen[1][1] < LOOK_SECONDS):
        time.sleep(0.2)
        step = last_step(metrics)
        if step and (not seen or step > seen[-1][0]):
            seen.append((step, time.monotonic()))
    first.send_signal(signal.SIGINT)
    first.wait()
    # The first figures come late: kernels are chosen and memory is taken. Coming back costs as much again.
    (step, then), (last, now) = seen[1], seen[-1]
    pace = (last - step) / (now - then)
    left = float(seconds) - (time.monotonic() - began) - (seen[0][1] - began)
    end = last_step(metrics) + max(LOG_EVERY, int(MARGIN * left * pace))
    print(f"{pace:.2f} steps/s, {left:.0f} s are left: {end} steps in all", flush=True)
    raise SystemExit(subprocess.run([*command, "--resume", "--max-steps", str(end)], check=False).returncode)


def last_step(metrics: Path) -> int:
    """The last step that has figures; 0 where there are none."""
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


if __name__ == "__main__":
    main()
