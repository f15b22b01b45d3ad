"""The embedded model judged by `heliograph evaluate`: `python -m heliograph.embedded.quality`, any number of times.

Three folders of videos of the same held-out prompts are compared in one report: as the model makes them, the same with
`--match-chunks`, and true clips of the world put through the model's autoencoder (what no model above it can beat). All
three are H.264 files, as a user would have them. A run that was stopped goes on; another model needs another `--state`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import torch

from heliograph.data.diorama.render import render
from heliograph.data.world import unit_pixels
from heliograph.embedded.evidence_quality import NAMES, RESULTS
from heliograph.embedded.render import open_codec, size_of
from heliograph.embedded.score import heldout_prompts
from heliograph.errors import UserError
from heliograph.evaluate.make import MakeOptions, make_videos
from heliograph.evaluate.run import EvaluateOptions, run_evaluate
from heliograph.evaluate.wanted import PROMPTS_FILE, Wanted
from heliograph.media.sink import open_sink
from heliograph.media.target import write_whole
from heliograph.shapes import CHUNK_FRAMES, FPS
from heliograph.vae import LatentCodec, to_uint8


def judge(model: str, state: Path, num_prompts: int, num_chunks: int) -> dict[str, Any]:
    """Make what is missing, evaluate all of it, and return what the evidence keeps of the report."""
    state.mkdir(parents=True, exist_ok=True)
    wanted = [
        Wanted(f"{number:04}", prompt.text, num_chunks * CHUNK_FRAMES, prompt.record)
        for number, prompt in enumerate(heldout_prompts(num_prompts))
    ]
    lines = "".join(json.dumps(one.as_json(), ensure_ascii=False) + "\n" for one in wanted)
    write_whole(state / PROMPTS_FILE, lines.encode())
    plain, matched, ceiling = (state / name for name in NAMES)
    for folder in (plain, matched, ceiling):
        folder.mkdir(exist_ok=True)
    for folder, matches in ((plain, False), (matched, True)):
        make_videos(MakeOptions(model, state / PROMPTS_FILE, match_chunks=matches), folder, _tell)
    write_whole(ceiling / PROMPTS_FILE, lines.encode())
    codec, size = open_codec(model), size_of(model)
    for one in wanted:
        if not (path := _like(plain, ceiling, one)).exists():
            _write_true(one, codec, size, path)
    report = run_evaluate(EvaluateOptions((plain, matched, ceiling), state / "report", None, CHUNK_FRAMES), _tell)
    return _kept(report.as_json(), num_prompts, num_chunks)


def _like(plain: Path, ceiling: Path, wanted: Wanted) -> Path:
    """The true clip's file has the name of the video that the model made."""
    return ceiling / next(path.name for path in plain.glob("*.mp4") if path.name.startswith(wanted.key))


def _write_true(wanted: Wanted, codec: LatentCodec, size: tuple[int, int], path: Path) -> None:
    """A true clip of the prompt through the autoencoder, as a file that has its name when it is whole."""
    assert wanted.record is not None and wanted.num_frames is not None, "prompts of the world have both"
    frames = unit_pixels(render([wanted.record], [0], wanted.num_frames, *size).frames[0])
    chunks = [codec.decode_chunk(codec.encode_chunk(chunk)) for chunk in frames.split(CHUNK_FRAMES, dim=2)]
    part = path.with_name(f".making-{path.name}")
    with open_sink(part, FPS, overwrite=True) as sink:
        sink.write(to_uint8(torch.cat(chunks, dim=2))[0].numpy())
    part.replace(path)


def _kept(report: Mapping[str, Any], num_prompts: int, num_chunks: int) -> dict[str, Any]:
    """Means with intervals, distances and paired tests; not the scores of single videos."""
    return {
        "facts": report["facts"],
        "plan": {"num_prompts": num_prompts, "num_chunks": num_chunks},
        "folders": {
            folder["name"]: {
                "scores": {name: found for name, found in folder["scores"].items() if found is not None},
                "frechet_distance": folder["frechet_distance"],
                "made": folder["made"],
            }
            for folder in report["folders"]
        },
        "comparison": [one for one in report["comparison"] if one["folder"] == NAMES[1]],
    }


def _tell(line: str) -> None:
    click.echo(line, err=True)


@click.command()
@click.option("--model", default="tiny", show_default=True)
@click.option("--state", type=click.Path(path_type=Path), default="out/quality", show_default=True)
@click.option("--prompts", default=40, show_default=True)
@click.option("--chunks", default=4, show_default=True)
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
def main(model: str, state: Path, prompts: int, chunks: int, results: Path) -> None:
    """Judge the embedded model by `heliograph evaluate`; RESULTS is what the page of evidence is written from."""
    found = judge(model, state, prompts, chunks)
    results.parent.mkdir(parents=True, exist_ok=True)
    write_whole(results, json.dumps(found, indent=1, sort_keys=True).encode() + b"\n")
    click.echo(f"{results}; {state / 'report' / 'report.html'}", err=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
