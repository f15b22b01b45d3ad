"""The page on which people vote: a server for this machine alone, until it is stopped."""

import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import uvicorn
from fastapi import Body, FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse

from heliograph.errors import OutputError, UserError
from heliograph.evaluate.videos import find_videos
from heliograph.evaluate.vote import Ballot
from heliograph.media.lock import hold_folder

HOST = "127.0.0.1"

PAGE = Path(__file__).with_name("vote.html")

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline'; media-src 'self'; img-src 'self' data:",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

Say = Callable[[str], None]


def run_vote(folders: tuple[Path, ...], output: Path, port: int, say: Say) -> None:
    """Show pairs of the two folders until the program is stopped; votes are in `votes.json` after each.

    Raises:
        UserError: there are not two folders, they share nothing, or the port is taken.
    """
    if len(folders) != 2:
        raise UserError(f"{len(folders)} folders were given; --vote needs two")
    ballot = open_ballot((folders[0], folders[1]), output)
    with hold_folder(output), socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as error:
            raise UserError(f"port {port} cannot be used ({error.strerror}); choose another --port") from error
        names = (folders[0].name or str(folders[0]), folders[1].name or str(folders[1]))
        server = uvicorn.Server(uvicorn.Config(vote_app(ballot, names), log_level="warning"))
        done = f"{ballot.num_votes} of {len(ballot.pairs)} done"
        say(f"vote at http://{HOST}:{listener.getsockname()[1]} ({done}); stop with Ctrl-C")
        try:
            server.run(sockets=[listener])
        finally:  # Ctrl-C is how it ends
            count = f"{ballot.num_votes} of {len(ballot.pairs)} votes"
            say(f"{output / 'votes.json'}: {count}; {in_words(ballot, names)}")


def open_ballot(folders: tuple[Path, Path], output: Path) -> Ballot:
    """The votes of two folders in the output's `votes.json`. Raises UserError."""
    videos = find_videos(folders[0], None), find_videos(folders[1], None)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make {output} ({error.strerror}); choose another --output") from error
    return Ballot(output / "votes.json", folders, videos)


def vote_app(ballot: Ballot, names: tuple[str, str]) -> FastAPI:
    """The page, the clips under names that give nothing away, and the votes."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    token = secrets.token_urlsafe(12)  # so that a page of another server cannot vote here

    @app.middleware("http")
    async def guard(request: Request, call_next: Any) -> Any:
        host = (request.headers.get("host") or "").rsplit(":", 1)[0]
        if host not in (HOST, "localhost"):
            return JSONResponse({"error": "this page is for this machine alone"}, 403)
        answer = await call_next(request)
        answer.headers.update(HEADERS)
        return answer

    @app.get("/")
    def page() -> HTMLResponse:
        return HTMLResponse(PAGE.read_text(encoding="utf-8").replace("{{token}}", token))

    @app.get("/state")
    def state() -> dict[str, Any]:
        return _state(ballot, names)

    @app.get("/clip/{index}/{side}")
    def clip(index: int, side: Literal["left", "right"]) -> FileResponse:
        if not 0 <= index < len(ballot.pairs):
            raise HTTPException(404)
        return FileResponse(ballot.pairs[index].sides[side == "right"])

    @app.post("/vote")
    def vote(
        index: Annotated[int, Body()],
        choice: Annotated[Literal["left", "right", "same", "back"], Body()],
        given: Annotated[str, Body(alias="token")],
    ) -> dict[str, Any]:
        if not secrets.compare_digest(given.encode(), token.encode()):
            raise HTTPException(403)
        if choice == "back":
            ballot.take_back()
        elif 0 <= index < len(ballot.pairs):
            ballot.cast(index, choice)
        else:
            raise HTTPException(404)
        return _state(ballot, names)

    return app


def in_words(ballot: Ballot, names: tuple[str, str]) -> str:
    """The result in a sentence."""
    found = ballot.outcome()
    if found.share is None or found.low is None or found.high is None:
        return "no preference yet"
    return (
        f"{names[1]} is preferred to {names[0]} in {found.share:.0%} of {found.first + found.second} votes that prefer "
        f"one [{found.low:.0%}, {found.high:.0%}], p {found.p:.3g}; {found.same} see no difference"
    )


def _state(ballot: Ballot, names: tuple[str, str]) -> dict[str, Any]:
    """What the page shows: the next pair, or at the end, and only then, which folder was which."""
    index = ballot.next
    state: dict[str, Any] = {"done": ballot.num_votes, "total": len(ballot.pairs), "index": index}
    if index is not None:
        return {**state, "prompt": ballot.pairs[index].prompt}
    return {**state, "result": ballot.outcome().as_json(), "words": in_words(ballot, names)}
