"""Request bodies of both kinds, JSON and multipart, as one nested value.

OpenAI's client writes lists in forms as repeated `name[]` and members of objects as `name[key]`; both come out here as
JSON would have them. Files stay files.
"""

import json
import re
from typing import Any

from fastapi import Request
from python_multipart.exceptions import MultipartParseError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from heliograph.serve.errors import ApiError, bad_request

MAX_FIELDS = 100
MAX_FILES = 2
MAX_FIELD_BYTES = 2**20
MAX_JSON_BYTES = 2**20

Body = dict[str, Any]

_MEMBER = re.compile(r"([A-Za-z0-9_-]+)\[([A-Za-z0-9_-]*)\]")


async def read_body(request: Request) -> Body:
    """The fields of a request by name; values are text, files, or whatever the JSON holds.

    Raises:
        ApiError: 400 or 415, the body cannot be read.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
        return await _form(request)
    if kind in {"", "application/json"} or kind.endswith("+json"):
        return await read_json(request)
    raise ApiError(
        415,
        f"Content-Type {kind[:60]!r} cannot be read; send application/json or multipart/form-data",
        code="media_type",
    )


async def read_json(request: Request) -> Body:
    """The members of a JSON object; an empty body is an empty object."""
    data = await request.body()
    if len(data) > MAX_JSON_BYTES and not _may_hold_a_picture(data):
        raise ApiError(413, f"the JSON has {len(data)} bytes; send at most {MAX_JSON_BYTES}", code="too_large")
    if not data.strip():
        return {}
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise bad_request('the body is not JSON; send an object such as {"prompt": "a red fish"}') from None
    if not isinstance(value, dict):
        raise bad_request('the body is no JSON object; send one such as {"prompt": "a red fish"}')
    return value


def is_upload(value: object) -> bool:
    """Whether a field holds a file."""
    return isinstance(value, UploadFile)


async def _form(request: Request) -> Body:
    try:
        form = await request.form(max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES)
    except (HTTPException, MultipartParseError, ValueError, KeyError) as error:
        reason = error.detail if isinstance(error, HTTPException) else str(error)
        raise bad_request(f"the form cannot be read ({reason[:120]}); send well-formed multipart/form-data") from None
    body: Body = {}
    for name, value in form.multi_items():
        _put(body, name, value)
    return body


def _put(body: Body, name: str, value: object) -> None:
    """Add one field of a form: `name`, `name[]` or `name[key]`."""
    match = _MEMBER.fullmatch(name)
    if match is None:
        body[name] = value
        return
    outer, key = match.groups()
    if key == "":
        values = body.setdefault(outer, [])
        if isinstance(values, list):
            values.append(value)
            return
    else:
        members = body.setdefault(outer, {})
        if isinstance(members, dict):
            members[key] = value
            return
    raise bad_request(f"{outer!r} is given in two different ways; give it once", outer)


def _may_hold_a_picture(data: bytes) -> bool:
    """Whether the JSON may hold a data URL, which is as long as its file."""
    return b"data:" in data
