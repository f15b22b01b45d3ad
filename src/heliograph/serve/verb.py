"""The verb `serve` of the command line."""

from pathlib import Path
from typing import Any

import click

from heliograph.options import lora_option, speed_options, threads_option

DEFAULT_FOLDER = Path.home() / ".heliograph" / "studio"


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 lets others in.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option("--model", default="tiny", show_default=True, help="tiny, a folder, or a hub id.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--dtype", default="auto", show_default=True, help="auto, float32, bfloat16 or float16.")
@lora_option
@speed_options
@click.option(
    "--data-dir", type=click.Path(path_type=Path), help=f"Where everything is kept.  [default: {DEFAULT_FOLDER}]"
)
@click.option("--api-key", envvar="HELIOGRAPH_API_KEY", help="Ask for this key. May be given in HELIOGRAPH_API_KEY.")
@click.option("--allow-host", multiple=True, help="A name that browsers know this server by; may be repeated.")
@click.option("--abandon-seconds", default=60.0, show_default=True, help="Stop a session that nobody watches.")
@click.option(
    "--max-batch", default=4, show_default=True, type=click.IntRange(1, 64), help="Live sessions made at once."
)
@click.option("--max-jobs", default=64, show_default=True, type=click.IntRange(1), help="Videos that may wait.")
@click.option("--max-live", default=8, show_default=True, type=click.IntRange(1), help="Live sessions that may run.")
@click.option("--max-pace", default=4.0, show_default=True, help="Fastest playback, as a multiple of 24 a second.")
@threads_option
def serve(model: str, device: str, dtype: str, data_dir: Path | None, **options: Any) -> None:
    """Open the studio: live video to steer in the browser, and the OpenAI Videos API.

    \b
    heliograph serve
    heliograph serve --port 9000 --data-dir /srv/studio --api-key "$KEY"
    """
    from heliograph.serve.server import serve as run  # noqa: PLC0415 - loads the web framework
    from heliograph.serve.settings import Limits, Settings  # noqa: PLC0415

    def load() -> Any:
        from heliograph.serve.helios import load_maker  # noqa: PLC0415 - loads torch

        return load_maker(model, device, dtype, options["threads"], options["speed"], options["loras"])

    limits = Limits(
        max_jobs=options["max_jobs"],
        max_jobs_per_client=options["max_jobs"],
        max_live=options["max_live"],
        max_live_per_client=options["max_live"],
    )
    settings = Settings(
        data_dir=data_dir or DEFAULT_FOLDER,
        host=options["host"],
        port=options["port"],
        api_key=options["api_key"] or None,
        abandon_seconds=options["abandon_seconds"],
        max_pace=options["max_pace"],
        max_batch=options["max_batch"],
        allowed_hosts=options["allow_host"],
        limits=limits,
    )
    run(
        settings,
        load,
        lambda address: click.echo(f"studio: {address}   (Ctrl-C stops it; data in {settings.data_dir})"),
    )
