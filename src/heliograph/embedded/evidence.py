"""The page of evidence, written from stored results: `docs/evidence.md` from `docs/evidence/embedded.json`."""

import json
from pathlib import Path
from typing import Any

from heliograph.errors import UserError

COLUMNS = ("scene", "time", "colour", "kind", "direction", "pan", "count", "size", "motion", "speed")
"""Attributes in the order of the table."""

HEAD = """# Evidence

Written by `python -m heliograph.embedded evidence` from `docs/evidence/embedded.json`; not edited by hand.

## The embedded model

Prompts are held-out combinations of the mix that the model was trained on (mostly one subject, medium or big), in
held-out words and phrases, every attribute named. A cell is the share of prompts for which plain code
(`heliograph.evaluate.truth`) read the attribute back from the video as it was asked, and in brackets how many prompts
it could be judged for. `ceiling` is true clips of the world put through the model's autoencoder and read in the same
way: what no model above this autoencoder can be expected to beat. Chance is 20 % for the scene, 33 % for the hour,
12.5 % for the colour, 50 % for the direction.
"""


def write_evidence(results: Path, page: Path) -> None:
    """Write the page anew.

    Raises:
        UserError: there are no results.
    """
    try:
        entries: dict[str, Any] = json.loads(results.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{results} cannot be read ({error}); run the scoring phase first") from error
    lines = ["", "| videos | chunks | s a chunk | " + " | ".join(COLUMNS) + " |", "| --- " * (3 + len(COLUMNS)) + "|"]
    for name, entry in entries.items():
        cells = [_cell(entry, column) for column in COLUMNS]
        seconds = f"{entry['seconds_per_chunk']:.2f}"
        lines.append(f"| {name} | {entry['plan']['num_chunks']} | {seconds} | " + " | ".join(cells) + " |")
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")


def _cell(entry: dict[str, Any], column: str) -> str:
    if column not in entry["shares"]:
        return "–"
    return f"{100 * entry['shares'][column]:.0f} % ({entry['counts'][column]})"
