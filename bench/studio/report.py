"""Figures to docs/benchmarks/studio.json, and the page that is made of it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def merge(folder: Path, part: str, figures: Mapping[str, Any]) -> None:
    """Put a part's figures in the place of its old ones, and write both files."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "studio.json"
    everything = json.loads(data.read_text(encoding="utf-8")) if data.exists() else {}
    everything[part] = figures
    data.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")
    (folder / "studio.md").write_text(page(everything), encoding="utf-8")
    print(json.dumps(figures, indent=1))


def page(parts: Mapping[str, Any]) -> str:
    """The figures beside what they must reach."""
    rows = [row for name, row_of in ROWS.items() if name in parts for row in row_of(parts[name])]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    sources = "\n".join(
        f"| {name} | {of['model']} | `{of['commit']}` | {of['when']} | {of['machine']} | "
        f"{of.get('load_average', '?')} | `{of['command'].strip()}` |"
        for name, of in parts.items()
    )
    return f"""# The studio's figures

Measured by `python bench/studio` (browser, clients and server on the same machine); `studio.json` has every value.

| what | bar | measured | reached |
| --- | --- | --- | --- |
{table}

| part | model | commit | when | machine | load average | command |
| --- | --- | --- | --- | --- | --- | --- |
{sources}
"""


def _reached(is_so: bool) -> str:  # noqa: FBT001
    return "yes" if is_so else "**no**"


def _page(of: Mapping[str, Any]) -> list[tuple[str, ...]]:
    firsts, play = of["first_picture_seconds"], of["play"]
    chunks = [change["chunks"] for change in of["changes"]]
    stalls = play["held"] + play["seeking"]
    return [
        (
            "first picture in the page after the press (warm)",
            "≤ 2.5 s",
            f"{of['first_picture_seconds_median']:.2f} s (median of {len(firsts)}; at most {max(firsts):.2f})",
            _reached(max(firsts) <= 2.5),
        ),
        (
            "stalls in three minutes of play",
            "0",
            f"{stalls:.0f} above 0.15 s in {play['seconds']:.0f} s ({of['stalled_seconds']:.2f} s behind the clock, "
            f"{play['dropped']:.0f} of {play['shown']:.0f} frames not drawn)",
            _reached(stalls == 0 and of["stalled_seconds"] < 0.5 and play["seconds"] >= 179),
        ),
        (
            "a changed prompt is in the picture",
            "≤ 3 chunks",
            f"{', '.join(map(str, chunks))} chunks ({', '.join(str(change['seconds']) for change in of['changes'])} s)",
            _reached(bool(chunks) and max(chunks) <= 3),
        ),
    ]


def _viewers(of: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            f"{of['viewers']} idle viewers cost the sampler",
            "< 10 %",
            f"{of['cost_percent']:.1f} % (seconds a chunk, in turn: alone {of['seconds_per_chunk_alone']}, "
            f"with them {of['seconds_per_chunk_with_viewers']})",
            _reached(of["cost_percent"] < 10),
        )
    ]


def _jobs(of: Mapping[str, Any]) -> list[tuple[str, ...]]:
    answers = {**of["first_time"], **of["second_time"]}
    return [
        (
            f"{of['clients']} clients order at once, twice",
            "each accepted or 429, none lost",
            f"{of['first_time']}, then {of['second_time']}; {of['completed']} of {of['accepted']} accepted were made",
            _reached(set(answers) <= {"200", "429"} and of["completed"] == of["accepted"]),
        ),
        (
            "`GET /v1/videos/{id}` while generating, p99",
            "< 100 ms",
            f"{of['look_ms_p99']} ms (median {of['look_ms_median']} ms, {of['num_looks']} looks)",
            _reached(of["look_ms_p99"] < 100),
        ),
    ]


def _soak(of: Mapping[str, Any]) -> list[tuple[str, ...]]:
    memory = of["memory_mib"]
    return [
        (
            f"memory over {of['minutes_of_video']:.0f} minutes of video",
            "flat",
            f"{memory[0]:.0f} MiB at first, {memory[len(memory) // 2]:.0f} half way, {memory[-1]:.0f} at the end "
            f"(made in {of['minutes_taken']:.0f} minutes)",
            _reached(abs(of["growth_in_second_half_mib"]) < 0.02 * memory[-1]),
        )
    ]


ROWS = {"page": _page, "viewers": _viewers, "jobs": _jobs, "soak": _soak}
