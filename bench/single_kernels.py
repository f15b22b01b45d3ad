"""Single kernels on the real shapes, and the roofline beside them: python bench/single_kernels.py results.json

Not named kernels.py: a script's folder comes first on the path, and a library looks for a package of that name.
Needs a CUDA device for the released shapes; `--shapes small --device cpu` only tries that everything runs.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

from heliograph.bench.kernels import RELEASED, SMALL, time_kernels
from heliograph.bench.report import machine_facts
from heliograph.bench.roofline import floor_of, rates_of
from heliograph.media.target import write_whole


def main() -> None:
    """Time all, and write after each what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shapes", choices=["released", "small"], default="released")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    shapes = RELEASED if arguments.shapes == "released" else SMALL
    facts = machine_facts(device)
    rates = rates_of(str(facts["device"]))
    floors = {}
    if rates is not None:
        for steps in ((1, 1, 1), (2, 2, 2)):
            floor = floor_of(shapes.net, shapes.work, steps, shapes.channels, rates)
            name = ",".join(map(str, steps))
            floors[name] = {"transformer_seconds": floor.transformer, "decode_seconds": floor.decode}
    report = {"command": " ".join(["python", *sys.argv]), **facts, "floors": floors, "timings": []}
    for timing in time_kernels(shapes, device, torch.bfloat16, rates):
        print(timing.line(), flush=True)
        report["timings"].append(timing.as_json())
        write_whole(arguments.results, json.dumps(report, indent=2).encode() + b"\n")


if __name__ == "__main__":
    main()
