"""Commands that measure the embedded model, and write down what was measured."""

from functools import partial
from pathlib import Path

import click

from heliograph.options import Steps

TEACHER_STEPS = "6,6,6"
"""The same for models before their distillation."""


@click.command()
@click.argument("model")
@click.argument("results", type=click.Path(path_type=Path))
@click.argument("name")
@click.option("--prompts", default=40, show_default=True)
@click.option("--chunks", default=3, show_default=True)
@click.option("--steps", type=Steps(), help="Steps on each level.  [default: the model's]")
@click.option("--first-chunk-steps", type=Steps())
@click.option("--guidance-scale", type=float)
@click.option("--sheet", type=click.Path(path_type=Path), help="Picture of three frames of each video.")
def score(  # noqa: PLR0913, PLR0917
    model: str,
    results: Path,
    name: str,
    prompts: int,
    chunks: int,
    steps: tuple[int, ...] | None,
    first_chunk_steps: tuple[int, ...] | None,
    guidance_scale: float | None,
    sheet: Path | None,
) -> None:
    """Score MODEL on held-out prompts; RESULTS (JSON) gets the scores under NAME."""
    from heliograph.embedded.results import add_result  # noqa: PLC0415 - loads torch
    from heliograph.embedded.score import ScorePlan, as_entry  # noqa: PLC0415
    from heliograph.embedded.score import score as run  # noqa: PLC0415
    from heliograph.pipeline import HeliosPipeline  # noqa: PLC0415

    plan = ScorePlan(prompts, chunks, steps, first_chunk_steps, guidance_scale)
    pipeline = HeliosPipeline.from_pretrained(model)
    add_result(results, name, pipeline, as_entry(plan, run(pipeline, plan, sheet)))


@click.command()
@click.argument("model")
@click.argument("results", type=click.Path(path_type=Path))
@click.option("--prompts", default=40, show_default=True)
@click.option("--chunks", default=3, show_default=True)
def ceiling(model: str, results: Path, prompts: int, chunks: int) -> None:
    """What true clips score once they went through MODEL's autoencoder; RESULTS gets it as `ceiling`."""
    from heliograph.embedded.render import open_codec, size_of  # noqa: PLC0415 - loads torch
    from heliograph.embedded.results import merge_results  # noqa: PLC0415
    from heliograph.embedded.score import ScorePlan, as_entry  # noqa: PLC0415
    from heliograph.embedded.score import ceiling as run  # noqa: PLC0415

    plan = ScorePlan(prompts, chunks)
    merge_results(results, {"ceiling": as_entry(plan, run(open_codec(model), plan, size_of(model)))})


@click.command()
@click.argument("model")
@click.argument("results", type=click.Path(path_type=Path))
@click.option("--videos", default=6, type=click.IntRange(1), show_default=True)
@click.option("--chunks", default=131, show_default=True, help="Chunks of each; 131 are three minutes.")
@click.option("--film", type=click.Path(path_type=Path), help="Picture of each video over its length.")
@click.option(
    "--workers", default=1, type=click.IntRange(1), show_default=True, help="Processes, which share the videos."
)
def endurance(model: str, results: Path, videos: int, chunks: int, film: Path | None, workers: int) -> None:
    """Measure drift, seams and faults of long videos of MODEL beside true clips; RESULTS gets `endurance`.

    Started again, it goes on with the videos that are missing.
    """
    from heliograph.embedded import endurance as long  # noqa: PLC0415 - loads torch
    from heliograph.embedded.apart import kept_beside, measured_apart  # noqa: PLC0415
    from heliograph.embedded.results import add_result, write_film  # noqa: PLC0415
    from heliograph.pipeline import HeliosPipeline  # noqa: PLC0415

    pipeline = HeliosPipeline.from_pretrained(model)
    with kept_beside(results, "endurance", pipeline, chunks) as folder:
        measure = partial(long.long_video, num_chunks=chunks, looks=folder)
        found = measured_apart(model, measure, videos, folder, workers, _tell)
        add_result(results, "endurance", pipeline, long.endurance(found, chunks))
        if film is not None:
            write_film(film, long.film(folder, videos))


@click.command()
@click.argument("model")
@click.argument("results", type=click.Path(path_type=Path))
@click.option("--videos", default=20, type=click.IntRange(1), show_default=True)
@click.option(
    "--workers", default=1, type=click.IntRange(1), show_default=True, help="Processes, which share the videos."
)
def steering(model: str, results: Path, videos: int, workers: int) -> None:
    """Measure starts from pictures and clips, and prompts that change midway; RESULTS gets `steering`.

    Started again, it goes on with the videos that are missing.
    """
    from heliograph.embedded import steering as starts  # noqa: PLC0415 - loads torch
    from heliograph.embedded.apart import kept_beside, measured_apart  # noqa: PLC0415
    from heliograph.embedded.results import add_result  # noqa: PLC0415
    from heliograph.pipeline import HeliosPipeline  # noqa: PLC0415

    pipeline = HeliosPipeline.from_pretrained(model)
    with kept_beside(results, "steering", pipeline) as folder:
        found = measured_apart(model, starts.steered, videos, folder, workers, _tell)
        add_result(results, "steering", pipeline, starts.steering(found))


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("results", type=click.Path(path_type=Path))
@click.option("--clips", default=64, show_default=True)
def levels(model: Path, results: Path, clips: int) -> None:
    """Measure what undistilled MODEL's velocities owe to the past, level by level; RESULTS gets `levels`."""
    from heliograph.embedded.levels import LevelsPlan, level_errors  # noqa: PLC0415 - loads torch
    from heliograph.embedded.results import merge_results, weights_digest  # noqa: PLC0415
    from heliograph.revision import revision  # noqa: PLC0415

    about = {"weights": weights_digest(model), "commit": revision()}
    merge_results(results, {"levels": about | level_errors(model, LevelsPlan(clips), _tell)})


@click.command()
@click.argument("model")
@click.argument("results", type=click.Path(path_type=Path))
@click.argument("name")
@click.option("--trained-steps", type=int, required=True, help="How long it was trained: what the arms have in common.")
@click.option("--steps", default=TEACHER_STEPS, type=Steps(), show_default=True)
@click.option("--guidance-scale", default=2.5, show_default=True)
@click.option("--videos", default=8, show_default=True)
@click.option("--chunks", default=87, show_default=True, help="Chunks of each long video; 87 are two minutes.")
@click.option("--prompts", default=40, show_default=True)
def arm(  # noqa: PLR0913, PLR0917
    model: str,
    results: Path,
    name: str,
    trained_steps: int,
    steps: tuple[int, ...],
    guidance_scale: float,
    videos: int,
    chunks: int,
    prompts: int,
) -> None:
    """Measure MODEL, an arm of the comparison of ideas; RESULTS gets the figures of its videos under NAME."""
    from heliograph.embedded.arms import ArmPlan, measure_arm  # noqa: PLC0415 - loads torch
    from heliograph.embedded.results import add_result  # noqa: PLC0415
    from heliograph.pipeline import HeliosPipeline  # noqa: PLC0415

    pipeline = HeliosPipeline.from_pretrained(model)
    plan = ArmPlan(steps, guidance_scale, trained_steps, videos, chunks, prompts)
    add_result(results, name, pipeline, measure_arm(pipeline, plan, _tell))


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--model", default="tiny", show_default=True)
@click.option("--chunks", default=4, show_default=True)
def films(file: Path, model: str, chunks: int) -> None:
    """Write the films of the README, side by side, as an animation."""
    from heliograph.embedded.results import films as make  # noqa: PLC0415 - loads torch
    from heliograph.pipeline import HeliosPipeline  # noqa: PLC0415

    make(HeliosPipeline.from_pretrained(model), chunks).save(file, overwrite=True)


@click.command()
@click.argument("results", type=click.Path(path_type=Path))
@click.option("--clips", default=300, show_default=True)
@click.option("--size", default=128, show_default=True, help="Pixels of a side.")
def checkers(results: Path, clips: int, size: int) -> None:
    """Read true clips of the whole world, clean and damaged; RESULTS gets the shares right under `SIZE px`."""
    from heliograph.embedded.checking import check_checkers  # noqa: PLC0415 - loads torch
    from heliograph.embedded.results import merge_results  # noqa: PLC0415

    merge_results(results, {f"{size} px": check_checkers(clips, size, _tell)})


def _tell(line: str) -> None:
    click.echo(line, err=True)


@click.command()
@click.option("--results", type=click.Path(path_type=Path), default="docs/evidence", show_default=True)
@click.option("--page", type=click.Path(path_type=Path), default="docs/evidence.md", show_default=True)
def evidence(results: Path, page: Path) -> None:
    """Write the page of evidence, and its plots, from the folder of stored results."""
    from heliograph.embedded.evidence import write_evidence  # noqa: PLC0415 - loads torch

    write_evidence(results, page)


MEASURING = (score, ceiling, endurance, steering, levels, arm, films, checkers, evidence)
"""Most write into files of results; `evidence` makes the page of those."""
