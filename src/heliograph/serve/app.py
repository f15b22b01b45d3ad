"""The web application: every route, behind the guards."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from starlette.concurrency import run_in_threadpool
from starlette.staticfiles import StaticFiles

from heliograph.serve.bodies import read_body
from heliograph.serve.errors import ApiError, install_error_handlers
from heliograph.serve.guards import COOKIE, Guards, Keys
from heliograph.serve.live_routes import live_routes
from heliograph.serve.live_socket import live_socket
from heliograph.serve.studio import Studio
from heliograph.serve.videos import video_routes
from heliograph.shapes import size_multiple

COOKIE_SECONDS = 30 * 24 * 3600


def build_app(studio: Studio) -> FastAPI:
    """The application of one server."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        studio.start()
        reaper = asyncio.create_task(studio.lives.reap())
        yield
        reaper.cancel()
        studio.lives.stop_all()
        await run_in_threadpool(studio.stop)

    app = FastAPI(
        title="Heliograph Studio",
        version=version("heliograph"),
        description="Live video you steer while it plays, and the OpenAI Videos API. See docs/api.md.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses={"4XX": {"description": "What was wrong", "content": {"application/json": {"schema": ERROR_SCHEMA}}}},
    )
    install_error_handlers(app)
    app.include_router(video_routes(studio))
    app.include_router(live_routes(studio))
    app.include_router(live_socket(studio))
    _add_health(app, studio)
    _add_page(app, studio)
    app.add_middleware(Guards, settings=studio.settings, login_page=_static("login.html"))
    return app


ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def _add_health(app: FastAPI, studio: Studio) -> None:
    @app.get("/healthz", tags=["server"], summary="Whether the server answers")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", tags=["server"], summary="Whether the model is loaded and warm, and results can be stored")
    async def readyz() -> JSONResponse:
        if not studio.scheduler.is_warm:
            return JSONResponse({"status": "loading"}, 503, {"Retry-After": "2"})
        try:
            studio.check_storage()
        except ApiError:
            return JSONResponse({"status": "storage"}, 503, {"Retry-After": "30"})
        return JSONResponse({"status": "ready"})

    @app.get("/metrics", tags=["server"], summary="Figures for Prometheus")
    def metrics() -> Response:
        return Response(studio.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models", tags=["server"], summary="Models that can be used")
    async def models() -> dict[str, Any]:
        maker = studio.maker
        height, width = maker.size
        return {
            "object": "list",
            "data": [
                {
                    "id": maker.name,
                    "object": "model",
                    "created": 0,
                    "owned_by": "heliograph",
                    "size": f"{width}x{height}",
                    "size_multiple": size_multiple(maker.num_levels, maker.stride),
                    "num_levels": maker.num_levels,
                    "is_random": maker.is_random,
                }
            ],
        }


def _add_page(app: FastAPI, studio: Studio) -> None:
    keys = Keys(studio.settings.api_key, studio.settings.limits.max_failed_keys)

    @app.get("/", include_in_schema=False)
    def page() -> Response:
        return Response(_static("index.html"), media_type="text/html; charset=utf-8")

    @app.post("/login", include_in_schema=False)
    async def login(request: Request) -> Response:
        if studio.settings.api_key is None:
            return RedirectResponse("/", 303)
        address = request.scope["state"]["client"]
        keys.check_guesses(address)
        key = (await read_body(request)).get("key")
        if not isinstance(key, str) or not keys.is_key(key.strip()):
            keys.count_guess(address)
            return RedirectResponse("/?wrong", 303)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(COOKIE, keys.cookie, max_age=COOKIE_SECONDS, httponly=True, samesite="strict", path="/")
        return answer

    app.mount("/static", StaticFiles(packages=[("heliograph.serve", "static")]), name="static")


def _static(name: str) -> bytes:
    """A file of the page."""
    return resources.files("heliograph.serve").joinpath("static", name).read_bytes()
