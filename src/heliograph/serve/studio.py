"""The parts of one running server, and what requests share: orders, limits, who asks."""

import secrets
import sys
from collections.abc import Callable
from typing import Any

from fastapi import Request

from heliograph.errors import UserError
from heliograph.serve.database import Database
from heliograph.serve.errors import ApiError, bad_request
from heliograph.serve.folders import Folders
from heliograph.serve.jobs import Jobs
from heliograph.serve.live import Lives
from heliograph.serve.maker import Maker
from heliograph.serve.metrics import Metrics
from heliograph.serve.order import Order, Start
from heliograph.serve.protocol import Look
from heliograph.serve.scheduler import Scheduler
from heliograph.serve.settings import MIB, Settings
from heliograph.serve.store import Store
from heliograph.serve.uploads import Uploads

RANDOM_SEEDS = 2**31
"""A seed that nobody chose is below this, so that every client's numbers can hold it."""


SWITCH_SECONDS = 0.0005
"""How long a thread that wants to run waits for the interpreter. Encoding lets go of it twice a frame and would wait
66 times for each chunk; at Python's own 5 ms that is longer than the encoding (0.15 s against 0.02 s)."""


class Studio:
    """Everything a route may need. Made before the server listens."""

    def __init__(self, settings: Settings, load: Callable[[], Maker]) -> None:
        """Open the data folder.

        Raises:
            UserError: the database in it is damaged.
        """
        self.settings = settings
        self.metrics = Metrics()
        self.database = Database(settings.data_dir / "heliograph.sqlite3")
        self.store = Store(self.database)
        self.folders = Folders(settings.data_dir)
        self.uploads = Uploads(settings.data_dir, settings.limits.upload)
        self.scheduler = Scheduler(load, settings.max_batch, self.metrics)
        self.lives = Lives(self.store, self.folders, self.scheduler, self.metrics, settings)
        self.jobs = Jobs(self.store, self.folders, self.scheduler, self.metrics, settings.limits)

    def start(self) -> None:
        """Clear what a crash left, load the model, go on with what was accepted."""
        sys.setswitchinterval(SWITCH_SECONDS)
        self.folders.sweep(self.store.owners())
        self.scheduler.on_ready = self.jobs.recover
        self.scheduler.start()

    def stop(self) -> None:
        """End after the chunk that is being made."""
        self.scheduler.stop()
        self.database.close()

    async def close_streams(self) -> None:
        """Let everyone who watches go; the server is about to stop."""
        self.lives.stop_all()

    @property
    def maker(self) -> Maker:
        """The model.

        Raises:
            ApiError: 503 while it is being loaded.
        """
        if self.scheduler.maker is None:
            raise ApiError(503, "the model is still being loaded; try again soon", code="loading", retry_after=2)
        return self.scheduler.maker

    def check_storage(self) -> None:
        """Refuse new work while it could not be stored.

        Raises:
            ApiError: 507.
        """
        trouble = self.scheduler.finisher.trouble
        if trouble is None and self.folders.free_bytes() >= self.settings.limits.min_free_bytes:
            return
        least = self.settings.limits.min_free_bytes // MIB
        raise ApiError(
            507,
            f"the server's disk is full or failing (at least {least} MiB must be free); what is under way waits, new "
            "work is refused until there is space",
            code="storage_full",
            retry_after=30,
        )

    def order(self, look: Look, prompt: str, start: Start = "text") -> Order:
        """The complete order, every default filled in.

        Raises:
            ApiError: 400, something in it cannot be made; 503, the model is not there yet.
        """
        maker = self.maker
        if look.model not in (None, maker.name):
            raise bad_request(
                f"model {str(look.model)[:60]!r} is not served here; send {maker.name!r} or leave it out",
                "model",
                "model",
            )
        height, width = self.size(look)
        order = Order(
            prompt=prompt,
            height=height,
            width=width,
            seed=secrets.randbelow(RANDOM_SEEDS) if look.seed is None else look.seed,
            negative_prompt=look.negative_prompt,
            steps=_steps(look, maker.num_levels),
            guidance_scale=look.guidance_scale,
            motion=look.motion,
            start=start,
        )
        self.check(order)
        return order

    def size(self, look: Look) -> tuple[int, int]:
        """Height and width that are asked for, in pixels, inside the limit.

        Raises:
            ApiError: 400, too many pixels.
        """
        if look.size is None:
            return self.maker.size
        width, height = (int(side) for side in look.size.split("x"))
        if height * width > self.settings.limits.max_pixels:
            most = self.settings.limits.max_pixels
            raise bad_request(
                f"size {look.size} has more than {most} pixels; send a smaller one", "size", "invalid_value"
            )
        return height, width

    def pace(self, pace: float) -> float:
        """A playback speed inside the limit. Raises ApiError (400)."""
        if pace > self.settings.max_pace:
            raise bad_request(
                f"pace {pace:g} is above {self.settings.max_pace:g}; send a lower one", "pace", "invalid_value"
            )
        return pace

    def check(self, order: Order) -> None:
        """Refuse an order that the model cannot make.

        Raises:
            ApiError: 400, with the model's own words.
        """
        try:
            self.maker.check(order)
        except UserError as error:
            raise bad_request(str(error), _param_of(str(error)), "invalid_value") from error


def client_of(request: Request) -> str:
    """Who asks, for limits per client."""
    return request.scope["state"]["client"]


def describe(model: type[Any], files: tuple[str, ...] = (), *, optional: bool = False) -> dict[str, Any]:
    """What `/openapi.json` says of a body that is read by hand: JSON, or a form with files."""
    schema = model.model_json_schema()
    form = {**schema, "properties": {**schema["properties"]}}
    for name in files:
        schema["properties"][name] = {"type": "string", "description": "a data URL of a picture or clip"}
        form["properties"][name] = {"type": "string", "format": "binary"}
    content = {"application/json": {"schema": schema}}
    if files:
        content["multipart/form-data"] = {"schema": form}
    return {"requestBody": {"required": not optional, "content": content}}


def _steps(look: Look, num_levels: int) -> tuple[int, ...] | None:
    """Steps by number or by a word: `fast` is one on each level, `fine` four, `standard` the model's own."""
    if look.steps is not None:
        return tuple(look.steps)
    return {"fast": (1,) * num_levels, "fine": (4,) * num_levels}.get(look.speed)


def _param_of(message: str) -> str | None:
    """The field that a message of the engine is about."""
    names = {"prompt": "prompt", "height": "size", "width": "size", "steps": "steps", "guidance": "guidance_scale"}
    return next((param for word, param in names.items() if word in message[:40]), None)
