"""What stands before every route: who may come in, from where, with how much, and what browsers are told.

Plain ASGI, so that sockets and endless streams pass through it unbuffered.
"""

import base64
import hashlib
import hmac
import ipaddress
import secrets
import time
from collections import OrderedDict, deque
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from heliograph.serve.errors import ApiError
from heliograph.serve.settings import Settings

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/login"})
"""Answered without a key: they say nothing but that the server is there, or take the key."""

COOKIE = "heliograph"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
MAX_CLIENTS = 4096

PAGE_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "font-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)


class Guards:
    """Checks every request and socket of an app, in the order: host, origin, key, size."""

    def __init__(self, app: ASGIApp, settings: Settings, login_page: bytes) -> None:
        self._app = app
        self._settings = settings
        self._login_page = login_page
        self._keys = Keys(settings.api_key, settings.limits.max_failed_keys)
        self._hosts = allowed_hosts(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let it pass, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        send = _with_headers(send, scope) if scope["type"] == "http" else send
        try:
            self._admit(scope)
        except ApiError as error:
            await self._refuse(error, scope, receive, send)
            return
        if scope["type"] == "http":
            limit = self._settings.limits.max_body_bytes
            declared = Headers(scope=scope).get("content-length", "")
            if declared.isdigit() and int(declared) > limit:
                await _body_too_large(limit).response()(scope, receive, send)
                return
            receive = _bounded(receive, limit)
        await self._app(scope, receive, send)

    def _admit(self, scope: Scope) -> None:
        """Raises ApiError where it may not come in; remembers who it is."""
        headers = Headers(scope=scope)
        address = scope["client"][0] if scope.get("client") else "local"
        host = _host_of("//" + headers.get("host", ""))
        if self._hosts is not None and host not in self._hosts:
            raise ApiError(403, "this server is not known by that name; start it with --allow-host NAME", code="host")
        origin = headers.get("origin")
        changes = scope["type"] == "websocket" or scope["method"] not in SAFE_METHODS
        if origin is not None and changes and not _same_origin(origin, headers.get("host", "")):
            raise ApiError(403, "pages of other sites may not use this server", code="origin")
        scope.setdefault("state", {})
        scope["state"]["client"] = address
        if self._settings.api_key is None or scope["path"] in OPEN_PATHS:
            return
        client = self._keys.holder(headers, address)
        if client is None:
            raise ApiError(
                401, "the API key is missing or wrong; send it as 'Authorization: Bearer KEY'", code="api_key"
            )

    async def _refuse(self, error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            if "websocket.http.response" in scope.get("extensions", {}):
                await error.response()(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008, "reason": error.message[:100]})
            return
        if error.status == 401 and scope["path"] == "/" and scope["method"] == "GET":
            page = self._login_page
            if scope["query_string"] == b"wrong":
                page = page.replace(b"This studio is locked.", b"That key is not right.")
            await send({"type": "http.response.start", "status": 401, "headers": _login_headers(page)})
            await send({"type": "http.response.body", "body": page})
            return
        await error.response()(scope, receive, send)


class Keys:
    """Tells right keys from wrong ones in constant time, and slows down who guesses."""

    def __init__(self, key: str | None, max_failures: int) -> None:
        self._key = key
        self._max_failures = max_failures
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    @property
    def cookie(self) -> str:
        """What a browser holds instead of the key; it cannot be turned back into it."""
        assert self._key is not None
        return hmac.new(self._key.encode(), b"heliograph page", hashlib.sha256).hexdigest()

    def is_key(self, given: str) -> bool:
        """Whether this is the key."""
        assert self._key is not None
        return secrets.compare_digest(given.encode(), self._key.encode())

    def holder(self, headers: Headers, address: str) -> str | None:
        """Who shows a right key or cookie; None for nobody.

        Raises:
            ApiError: 429, the address has tried too many wrong ones.
        """
        self.check_guesses(address)
        given = headers.get("authorization", "")
        if given.lower().startswith("bearer "):
            if self.is_key(given[7:].strip()):
                return "key"
            self.count_guess(address)
            return None
        cookie = _cookie(headers.get("cookie", ""))
        if cookie and secrets.compare_digest(cookie.encode(), self.cookie.encode()):
            return "page"
        if cookie:
            self.count_guess(address)
        return None

    def check_guesses(self, address: str) -> None:
        """Raises ApiError (429) where an address guessed too often in the last minute."""
        recent = self._failures.get(address)
        now = time.monotonic()
        while recent and now - recent[0] > 60:
            recent.popleft()
        if recent and len(recent) >= self._max_failures:
            raise ApiError(429, "too many wrong keys from this address; wait a minute", code="api_key", retry_after=60)

    def count_guess(self, address: str) -> None:
        """Remember a wrong key."""
        self._failures.setdefault(address, deque(maxlen=self._max_failures)).append(time.monotonic())
        self._failures.move_to_end(address)
        while len(self._failures) > MAX_CLIENTS:
            self._failures.popitem(last=False)


def allowed_hosts(settings: Settings) -> frozenset[str] | None:
    """Names in the Host header that are answered: a page elsewhere may make its own name point here.

    None lets every name in: the server listens to others on purpose, and no names were given.
    """
    names = {settings.host.lower(), "localhost", "127.0.0.1", "::1", *(name.lower() for name in settings.allowed_hosts)}
    if not is_loopback(settings.host) and not settings.allowed_hosts:
        return None
    return frozenset(names)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _same_origin(origin: str, host: str) -> bool:
    parts = urlsplit(origin)
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _cookie(header: str) -> str:
    jar: SimpleCookie = SimpleCookie()
    try:
        jar.load(header)
    except CookieError:
        return ""
    return jar[COOKIE].value if COOKIE in jar else ""


def _with_headers(send: Send, scope: Scope) -> Send:
    """Tell browsers what the answer may do; no answer allows other sites to read it (no CORS headers at all)."""

    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.setdefault("Content-Security-Policy", PAGE_POLICY)
            headers["X-Content-Type-Options"] = "nosniff"
            headers["X-Frame-Options"] = "DENY"
            headers["Referrer-Policy"] = "same-origin"  # none at all would hide the origin of the key's form
            headers["Cross-Origin-Opener-Policy"] = "same-origin"
            headers["Cross-Origin-Resource-Policy"] = "same-origin"
            headers["Permissions-Policy"] = "camera=(), microphone=(), geolocation=()"
            if scope["path"].startswith("/v1/") or scope["path"] == "/":
                headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return guarded


def _login_headers(page: bytes) -> list[tuple[bytes, bytes]]:
    """The one page that is shown without a key has its style inside, allowed by its digest."""
    style = page.partition(b"<style>")[2].partition(b"</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    return [
        (b"content-type", b"text/html; charset=utf-8"),
        (b"content-length", str(len(page)).encode()),
        (b"content-security-policy", policy.encode()),
    ]


def _body_too_large(limit: int) -> ApiError:
    return ApiError(413, f"the body is larger than {limit} bytes; send a smaller file", code="too_large")


def _bounded(receive: Receive, limit: int) -> Receive:
    """Stop reading a body that grows past the limit."""
    num_bytes = 0

    async def bounded() -> Message:
        nonlocal num_bytes
        message: dict[str, Any] = dict(await receive())
        num_bytes += len(message.get("body", b""))
        if num_bytes > limit:
            raise _body_too_large(limit)
        return message

    return bounded
