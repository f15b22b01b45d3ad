"""Commands of `runs/embedded.sh`: python -m heliograph.embedded start | latents | ..."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import click

from heliograph.errors import UserError
from heliograph.options import Steps

UNFINISHED = 75
"""Exit status of a phase whose time was up; the shell's word for it is "try again"."""


@click.group()
def commands() -> None:
    """Make the embedded model, phase by phase; `heliograph train` does the training in between."""


@commands.command()
@click.argument("folder", type=click.Path(path_type=Path))
def start(folder: Path) -> None:
    """Write the model folder that training starts from."""
    from heliograph.embedded.start import write_start  # noqa: PLC0415 - loads torch

    write_start(folder)


@commands.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--channels", default=32, show_default=True, help="Numbers of a latent cell.")
def widen(model: Path, folder: Path, channels: int) -> None:
    """Write MODEL with more numbers for each latent cell as FOLDER; it is trained on from there."""
    from heliograph.embedded.widen import widen as write  # noqa: PLC0415 - loads torch

    write(model, folder, channels)


@commands.command()
@click.argument("model")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--clips", default=4000, show_default=True)
@click.option("--chunks", default=4, show_default=True)
@click.option("--late", default=0, show_default=True, help="Of the clips, how many begin later in their video.")
@click.option("--workers", default=1, show_default=True, help="Processes that render, one thread each.")
def latents(model: str, folder: Path, clips: int, chunks: int, late: int, workers: int) -> None:
    """Render clips of the mix and encode them with MODEL; started again, it goes on."""
    from heliograph.data.world_cache import CacheInfo, code_digest, missing_parts  # noqa: PLC0415
    from heliograph.embedded.render import open_codec, render_part  # noqa: PLC0415
    from heliograph.embedded.start import HEIGHT, WIDTH  # noqa: PLC0415

    info = CacheInfo(clips, chunks, HEIGHT, WIDTH, code_digest(open_codec(model)), late)
    parts = missing_parts(folder, info)
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:  # forked, PyTorch's threads would be missing
        jobs = [pool.submit(render_part, folder, part, info, model) for part in parts]
        try:
            for done, job in enumerate(jobs, 1):
                job.result()
                click.echo(f"{done}/{len(parts)} parts", err=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


@commands.command()
@click.argument("model")
@click.argument("state", type=click.Path(path_type=Path))
@click.option("--steps", default=3000, show_default=True)
@click.option("--seconds", default=540.0, show_default=True, help="Stop after this time; started again, it goes on.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1.")
def decoder(model: str, state: Path, steps: int, seconds: float, device: str) -> None:
    """Train the network of MODEL's decoder; STATE is the file that it is kept in."""
    from heliograph.embedded.decoder import DecoderConfig, train_decoder  # noqa: PLC0415 - loads torch
    from heliograph.embedded.start import HEIGHT, WIDTH  # noqa: PLC0415
    from heliograph.train.parallel import joined  # noqa: PLC0415

    with joined(device) as parallel:
        is_done = train_decoder(model, state, DecoderConfig(steps), (HEIGHT, WIDTH), seconds, parallel.device)
    _end(is_done=is_done)


@commands.command()
@click.argument("model")
@click.argument("latents", type=click.Path(path_type=Path))
@click.argument("state", type=click.Path(path_type=Path))
@click.option("--steps", default=2500, show_default=True)
@click.option("--chunks", default=900, show_default=True, help="Examples.")
@click.option("--seconds", default=540.0, show_default=True, help="Stop after this time; started again, it goes on.")
def refine(model: str, latents: Path, state: Path, steps: int, chunks: int, seconds: float) -> None:
    """Train the network that refines what MODEL's decoder paints, on clips of the cache LATENTS."""
    from heliograph.embedded.refine import RefineConfig, cached_clips, train_refiner  # noqa: PLC0415 - loads torch
    from heliograph.embedded.start import REFINER_DIM  # noqa: PLC0415

    is_done = train_refiner(model, cached_clips(latents), state, RefineConfig(steps, chunks), REFINER_DIM, seconds)
    _end(is_done=is_done)


@commands.command()
@click.argument("model")
@click.argument("latents", type=click.Path(path_type=Path))
@click.argument("refined", type=click.Path(path_type=Path))
@click.argument("state", type=click.Path(path_type=Path))
@click.option("--steps", default=1100, show_default=True)
@click.option("--chunks", default=900, show_default=True, help="Examples.")
@click.option("--seconds", default=540.0, show_default=True, help="Stop after this time; started again, it goes on.")
def sharpen(model: str, latents: Path, refined: Path, state: Path, steps: int, chunks: int, seconds: float) -> None:
    """Train the refiner of the state REFINED on against a critic, so that edges are edges."""
    from heliograph.embedded.refine import cached_clips  # noqa: PLC0415 - loads torch
    from heliograph.embedded.sharpen import SharpenConfig, sharpen_refiner  # noqa: PLC0415

    config = SharpenConfig(steps, chunks)
    _end(is_done=sharpen_refiner(model, cached_clips(latents), refined, state, config, seconds))


def _end(*, is_done: bool) -> None:
    """Say whether a training is done, and exit with `UNFINISHED` where it is not."""
    click.echo("trained" if is_done else "not done yet: run it again", err=True)
    if not is_done:
        raise SystemExit(UNFINISHED)


@commands.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--count", default=400, show_default=True)
def prompts(file: Path, count: int) -> None:
    """Write captions of the mix, one a line: what the teacher of stage 3 is asked for."""
    from heliograph.embedded.mix import teaching_prompts  # noqa: PLC0415
    from heliograph.media.target import write_whole  # noqa: PLC0415

    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, "".join(f"{line}\n" for line in teaching_prompts(count)).encode())


STEPS = "1,1,2"
"""Steps on each level that the embedded model is sampled with: it is distilled."""

GUIDANCE, GUIDED_LEVELS = 1.35, 2
"""And its guidance, a little, so that subjects last, on the levels where they are decided: six evaluations a chunk."""

TEACHER_STEPS = "6,6,6"
"""The same for models before their distillation."""


@commands.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--decoder", type=click.Path(path_type=Path), help="State of the decoder's training.")
@click.option("--refiner", type=click.Path(path_type=Path), help="State of the refiner's training.")
@click.option("--steps", default=STEPS, type=Steps(), show_default=True)
@click.option("--first-chunk-steps", type=Steps())
@click.option("--guidance-scale", default=GUIDANCE, show_default=True)
@click.option("--guided-levels", default=GUIDED_LEVELS, show_default=True, help="Levels with guidance, coarse first.")
def pack(
    model: Path,
    folder: Path,
    decoder: Path | None,
    refiner: Path | None,
    steps: tuple[int, ...],
    first_chunk_steps: tuple[int, ...] | None,
    guidance_scale: float,
    guided_levels: int,
) -> None:
    """Write trained MODEL as FOLDER, the way it is installed."""
    from heliograph.embedded.pack import Decoding, Native  # noqa: PLC0415 - loads torch
    from heliograph.embedded.pack import pack as write  # noqa: PLC0415
    from heliograph.embedded.start import HEIGHT, WIDTH  # noqa: PLC0415

    native = Native(HEIGHT, WIDTH, steps, first_chunk_steps, guidance_scale, guided_levels)
    size = write(model, Decoding(decoder, refiner), folder, native)
    click.echo(f"{folder}: {size / 1e6:.1f} MB", err=True)


@commands.command()
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


@commands.command()
@click.argument("model")
@click.argument("results", type=click.Path(path_type=Path))
@click.option("--prompts", default=40, show_default=True)
@click.option("--chunks", default=3, show_default=True)
def ceiling(model: str, results: Path, prompts: int, chunks: int) -> None:
    """What true clips score once they went through MODEL's autoencoder; RESULTS gets it as `ceiling`."""
    from heliograph.embedded.render import open_codec  # noqa: PLC0415 - loads torch
    from heliograph.embedded.results import merge_results  # noqa: PLC0415
    from heliograph.embedded.score import ScorePlan, as_entry  # noqa: PLC0415
    from heliograph.embedded.score import ceiling as run  # noqa: PLC0415
    from heliograph.embedded.start import HEIGHT, WIDTH  # noqa: PLC0415

    plan = ScorePlan(prompts, chunks)
    merge_results(results, {"ceiling": as_entry(plan, run(open_codec(model), plan, (HEIGHT, WIDTH)))})


@commands.command()
@click.argument("model")
@click.argument("results", type=click.Path(path_type=Path))
@click.option("--videos", default=6, show_default=True)
@click.option("--chunks", default=131, show_default=True, help="Chunks of each; 131 are three minutes.")
@click.option("--film", type=click.Path(path_type=Path), help="Picture of each video over its length.")
def endurance(model: str, results: Path, videos: int, chunks: int, film: Path | None) -> None:
    """Measure drift, seams and faults of long videos of MODEL beside true clips; RESULTS gets `endurance`."""
    from heliograph.embedded.endurance import EndurancePlan  # noqa: PLC0415 - loads torch
    from heliograph.embedded.endurance import endurance as run  # noqa: PLC0415
    from heliograph.embedded.results import add_result, write_film  # noqa: PLC0415
    from heliograph.pipeline import HeliosPipeline  # noqa: PLC0415

    pipeline = HeliosPipeline.from_pretrained(model)
    figures, looks = run(pipeline, EndurancePlan(videos, chunks), _tell)
    add_result(results, "endurance", pipeline, figures)
    if film is not None:
        write_film(film, looks)


@commands.command()
@click.argument("model")
@click.argument("results", type=click.Path(path_type=Path))
@click.option("--videos", default=20, show_default=True)
def steering(model: str, results: Path, videos: int) -> None:
    """Measure starts from pictures and clips, and prompts that change midway; RESULTS gets `steering`."""
    from heliograph.embedded.results import add_result  # noqa: PLC0415 - loads torch
    from heliograph.embedded.steering import SteeringPlan  # noqa: PLC0415
    from heliograph.embedded.steering import steering as run  # noqa: PLC0415
    from heliograph.pipeline import HeliosPipeline  # noqa: PLC0415

    pipeline = HeliosPipeline.from_pretrained(model)
    add_result(results, "steering", pipeline, run(pipeline, SteeringPlan(videos), _tell))


@commands.command()
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


@commands.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--model", default="tiny", show_default=True)
@click.option("--chunks", default=4, show_default=True)
def films(file: Path, model: str, chunks: int) -> None:
    """Write the films of the README, side by side, as an animation."""
    from heliograph.embedded.results import films as make  # noqa: PLC0415 - loads torch
    from heliograph.pipeline import HeliosPipeline  # noqa: PLC0415

    make(HeliosPipeline.from_pretrained(model), chunks).save(file, overwrite=True)


@commands.command()
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


@commands.command()
@click.option("--results", type=click.Path(path_type=Path), default="docs/evidence", show_default=True)
@click.option("--page", type=click.Path(path_type=Path), default="docs/evidence.md", show_default=True)
def evidence(results: Path, page: Path) -> None:
    """Write the page of evidence, and its plots, from the folder of stored results."""
    from heliograph.embedded.evidence import write_evidence  # noqa: PLC0415 - loads torch

    write_evidence(results, page)


if __name__ == "__main__":
    try:
        commands()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
