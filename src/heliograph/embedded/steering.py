"""Does a model take what it is given? Starts from pictures and clips of the world, and prompts that change midway."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from einops import rearrange

from heliograph.data.diorama import Record
from heliograph.data.diorama.caption import plain_caption
from heliograph.data.diorama.record import COLOURS, LIVES_IN, SCENES, TIMES, Kind, is_heldout, motions_of
from heliograph.data.diorama.render import render
from heliograph.embedded.endurance import Frames
from heliograph.embedded.score import heldout_prompt
from heliograph.engine.session import Session
from heliograph.evaluate.metrics.cuts import find_cuts
from heliograph.evaluate.metrics.thumbnails import thumbnails
from heliograph.evaluate.statistics import share_interval
from heliograph.evaluate.truth import Reader
from heliograph.pipeline import HeliosPipeline
from heliograph.shapes import CHUNK_FRAMES, FPS

START_SECONDS = 10
"""How long a given subject and scene must stay."""

GIVEN_CHUNKS = 2
"""Length of the clip that a video goes on from."""

BEFORE_CHUNKS, WITHIN_CHUNKS, READ_CHUNKS = 3, 3, 3
"""Chunks before a prompt changes, chunks in which it must take effect, and chunks that are read after these."""

KEPT = ("scene", "kind", "colour")

STARTS: Mapping[str, int] = {"image": 0, "video": GIVEN_CHUNKS}
"""What a video may start from, named as in `HeliosPipeline.session`, and at which chunk of the true clip it begins."""

TRUE = "true clip of "
"""Before the name of a start: the clip that it was taken from, read at the same time."""

STAYS: Mapping[str, str] = {"colour": "scene", "time": "scene", "scene": "colour"}
"""What may change in the middle of a video, and what must stay as it is then."""


def steered(pipeline: HeliosPipeline, number: int) -> dict[str, dict[str, bool]]:
    """Make the videos of one held-out prompt and read them back: what was right, for each start and each change.

    Where a start's subject is away or hidden in the true clip as well, no model is at fault: so that is read, too.
    """
    reader, length, prompt = Reader(), -(-START_SECONDS * FPS // CHUNK_FRAMES), heldout_prompt(number)
    height, width = pipeline.engine.size
    clip = _filmed(prompt.record, (GIVEN_CHUNKS + length) * CHUNK_FRAMES, height, width)
    given = {"image": clip[0], "video": clip[: GIVEN_CHUNKS * CHUNK_FRAMES]}
    found: dict[str, dict[str, bool]] = {}
    for name, first in STARTS.items():
        session = pipeline.session(prompt.text, seed=number, **{name: given[name]})  # pyright: ignore[reportArgumentType]
        true = clip[: (first + length) * CHUNK_FRAMES]
        for whose, frames in ((name, _play(session, length)), (TRUE + name, true)):
            right = reader.check(frames[-READ_CHUNKS * CHUNK_FRAMES :], prompt.record)
            found[whose] = {attribute: right[attribute] for attribute in KEPT}
    for name in STAYS:
        found[name] = _change(pipeline, prompt.record, name, number, reader)
    return found


def steering(prompts: Sequence[Mapping[str, Mapping[str, bool]]]) -> dict[str, Any]:
    """Shares of prompts (see `steered`) for which each was right, each with its 95 % interval."""
    return {name: _shares([found[name] for found in prompts]) for name in prompts[0]}


def other_record(record: Record, attribute: str) -> Record:
    """The same clip with another colour, at another time or in another scene; no change leads to what is held out.

    In another scene the subject stays if it lives there; otherwise one that does takes its place.
    """
    values = {"colour": COLOURS, "time": TIMES, "scene": SCENES}[attribute]
    there = values.index(getattr(record, attribute))
    for step in range(1, len(values)):
        value = values[(there + step) % len(values)]
        kinds: list[Kind] = [record.kind]
        if value in LIVES_IN:
            kinds = sorted(LIVES_IN[value], key=lambda kind: kind != record.kind)
        for kind in kinds:
            if record.motion not in motions_of(kind):
                continue
            changes: dict[str, Any] = {attribute: value, "kind": kind}
            other = replace(record, **changes)
            if attribute == "time" or not is_heldout(other.scene, other.kind, other.colour):
                return other
    raise AssertionError(f"every {attribute} of {record} is held out")


def _change(pipeline: HeliosPipeline, record: Record, attribute: str, seed: int, reader: Reader) -> dict[str, bool]:
    """A prompt changes in one attribute: whether it follows in time, what is to stay stays, and nothing cuts."""
    wanted = other_record(record, attribute)
    session = pipeline.session(plain_caption(record), seed=seed)
    before = _play(session, BEFORE_CHUNKS)
    session.set_prompt(plain_caption(wanted), transition_chunks=1)
    after = _play(session, WITHIN_CHUNKS + READ_CHUNKS)
    right = reader.check(after[WITHIN_CHUNKS * CHUNK_FRAMES :], wanted)
    was_right = reader.check(before, record)
    cuts = find_cuts(thumbnails(np.concatenate([before, after])))
    return {
        "before": was_right[attribute],
        "after": right[attribute],
        "kept": right[STAYS[attribute]],
        "no cut": not [cut for cut in cuts if cut >= BEFORE_CHUNKS * CHUNK_FRAMES],
    }


def _shares(rows: Sequence[Mapping[str, bool]]) -> dict[str, Any]:
    shares: dict[str, Any] = {"num": len(rows)}
    for name in rows[0]:
        share = share_interval(sum(row[name] for row in rows), len(rows))
        shares[name] = {"mean": share.mean, "low": share.low, "high": share.high}
    return shares


def _play(session: Session, num_chunks: int) -> Frames:
    return np.concatenate([session.next_chunk().frames for _ in range(num_chunks)])


def _filmed(record: Record, num_frames: int, height: int, width: int) -> Frames:
    return rearrange(render([record], [0], num_frames, height, width).frames[0], "f c h w -> f h w c").numpy()
