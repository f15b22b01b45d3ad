"""Ground truth read back from pixels: plain code that says what a clip of the procedural world shows.

The scene and the hour are taken from the record, that is from the prompt: they choose the colour tables and the kinds
to look for. They are themselves read (and judged) without that knowledge.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from numpy import ndarray as Array
from torch import Tensor
from torch.nn import functional

from heliograph.data.diorama.motion import PAN_SPEED
from heliograph.data.diorama.record import COLOURS, LIVES_IN, SCENES, SIZES, TIMES, Record, Scene, Time
from heliograph.errors import UserError
from heliograph.evaluate.paths import accounts, common_path
from heliograph.evaluate.sight import (
    GRID,
    Blobs,
    Sight,
    body_mask,
    clip_look,
    examples,
    find,
    label,
    look,
    shrink,
    sight,
    unlike,
    votes,
)
from heliograph.evaluate.silhouettes import Likeness, Silhouettes, compare, silhouettes
from heliograph.shapes import FPS

MIN_FRAMES = 9
"""Shortest clip that is read."""

MOTION_FRAMES = 66
"""Shortest clip in which a motion about one place is judged: a slow one turns back only after so long."""


@dataclass(frozen=True)
class Reading:
    """What a clip shows in one respect.

    Attributes:
        value: as in `Record`, or None where nothing could be read.
        confidence: 0 to 1, to rank readings of one attribute; not a probability.
    """

    value: str | int | None
    confidence: float


NOTHING = Reading(None, 0.0)

Looks = Float[Tensor, "b 3 r"]
"""Median colours of the rows of some pictures."""


def check(clip: UInt8[Array, "f h w 3"], record: Record) -> dict[str, bool]:
    """`Reader.check` for a single clip; for many clips one `Reader` is several times faster."""
    return Reader().check(clip, record)


class Reader:
    """Reads clips. It remembers what scenes and subjects look like once it has needed to know."""

    def __init__(self) -> None:
        self._sights: dict[tuple[Scene, Time], Sight] = {}
        self._silhouettes: dict[tuple[Scene, Time, int], Silhouettes] = {}
        self._looks: dict[tuple[Scene, Time], Looks] = {}

    def check(self, clip: UInt8[Array, "f h w 3"], record: Record) -> dict[str, bool]:
        """Which of a record's attributes the clip shows rightly; attributes that cannot be judged are left out.

        Always judged: scene, time, kind, colour, count, size, pan. `direction` is judged where the record moves left
        or right. `motion` and `speed` are judged where the record moves left or right, and for other motions from 66
        frames. An attribute that should be visible and is not (no subject found) is judged wrong.

        Args:
            clip: 24 frames a second, 9 frames or more, at least 32 pixels high and wide.
        """
        readings = self.read(clip, record)
        wanted: dict[str, str | int] = {name: getattr(record, name) for name in readings if name != "direction"}
        if record.motion in ("left", "right"):
            wanted["direction"] = record.motion
        elif len(clip) < MOTION_FRAMES:
            del wanted["motion"], wanted["speed"]
        return {name: readings[name].value == value for name, value in wanted.items()}

    def read(self, clip: UInt8[Array, "f h w 3"], record: Record) -> dict[str, Reading]:
        """Read every attribute of a clip, and the `direction` of travel.

        Args:
            clip: as for `check`.
            record: what the clip was asked to show; scene and time are used, as the module says.

        Raises:
            UserError: if the clip is too short or too small.
        """
        if len(clip) < MIN_FRAMES or clip.shape[1] < 32 or clip.shape[2] < 32:
            raise UserError(
                f"a clip of shape {clip.shape} is too small to read; use {MIN_FRAMES} frames of 32x32 or more"
            )
        frames = shrink(clip)
        known = self._sight(record)
        labels = label(frames, known)
        readings = _read_place(frames, self._all_looks()) | {"pan": _read_pan(frames, labels > 0)}
        counts = votes(labels)
        colour = int(counts.argmax())
        blobs = _subjects(body_mask(labels, colour))
        if blobs is None:
            return readings | dict.fromkeys(
                ("kind", "colour", "count", "size", "motion", "speed", "direction"), NOTHING
            )
        count = _read_count(blobs, len(clip))
        like = compare(blobs, self._known_silhouettes(record, colour, known))
        readings |= {
            "kind": Reading(LIVES_IN[record.scene][like.kind], like.margin),
            "colour": Reading(COLOURS[colour], float(counts[colour] / counts.sum())),
            "count": count,
            "size": _read_size(like, blobs.whole),
        }
        return readings | _read_motion(blobs, like, len(clip), int(count.value or 1))

    def _sight(self, record: Record) -> Sight:
        place = record.scene, record.time
        if place not in self._sights:
            self._sights[place] = sight(*place)
        return self._sights[place]

    def _known_silhouettes(self, record: Record, colour: int, known: Sight) -> Silhouettes:
        look = record.scene, record.time, colour
        if look not in self._silhouettes:
            self._silhouettes[look] = silhouettes(*look, known)
        return self._silhouettes[look]

    def _all_looks(self) -> dict[tuple[Scene, Time], Looks]:
        if not self._looks:
            self._looks = {(scene, time): look(examples(scene, time)) for scene in SCENES for time in TIMES}
        return self._looks


def _subjects(mask: Tensor) -> Blobs | None:
    """The blobs that are subjects: of about the same area, or cut by the border; None if there are none."""
    blobs = find(mask, least=0.0035)
    if not len(blobs.frame):
        return None
    usual = _usual_area(blobs)
    blobs = blobs.only(blobs.area > torch.where(blobs.whole, 0.42, 0.3) * usual)
    return blobs if len(blobs.frame) else None


def _usual_area(blobs: Blobs) -> float:
    areas = blobs.area[blobs.whole] if bool(blobs.whole.any()) else blobs.area
    return float(areas.quantile(0.75))


def _read_count(blobs: Blobs, num_frames: int) -> Reading:
    """The largest number that is seen in a sixteenth of the frames; two that touch count as two by their area."""
    weight = (blobs.area / _usual_area(blobs) + 0.4).floor().clamp_min(1)
    seen = torch.zeros(num_frames).index_add_(0, blobs.frame, weight)
    least = max(2, num_frames // 16)
    enough = [number for number in range(1, 9) if int((seen >= number).sum()) >= least]
    value = max(enough, default=0)
    return Reading(value, float((seen == value).float().mean()))


def _read_size(like: Likeness, whole: Tensor) -> Reading:
    off = (like.growth[whole].median(0).values if bool(whole.any()) else like.growth.quantile(0.8, 0)).log().abs()
    best = int(off.argmin())
    return Reading(SIZES[best], float((1 - off[best] / 0.15).clamp_min(0)))


def _read_motion(blobs: Blobs, like: Likeness, num_frames: int, count: int) -> dict[str, Reading]:
    """Motion, speed and direction from the whole blobs' common path."""
    keep = blobs.whole
    frame, x, y = (values[keep].double().numpy() for values in (blobs.frame, like.x, like.y))
    found = accounts(common_path(frame, x, y, num_frames), count)
    if not found:
        return dict.fromkeys(("motion", "speed", "direction"), NOTHING)
    straight = next(account for account in found if account.motion in ("left", "right"))
    best = straight if straight.error < 1.5 * found[0].error + 0.003 else found[0]
    other = next(account for account in found if account.motion != best.motion)
    slower = min((a.error for a in found if a.motion == best.motion and a.speed != best.speed), default=best.error)
    sure = 1 - best.error / max(other.error, 1e-9)
    return {
        "motion": Reading(best.motion, sure),
        "speed": Reading(best.speed, 1 - best.error / max(slower, 1e-9) if slower > best.error else sure),
        "direction": Reading(straight.motion, 1 - straight.error / max(found[-1].error, 1e-9)),
    }


def _read_place(frames: Float[Tensor, "f 3 g v"], looks: dict[tuple[Scene, Time], Looks]) -> dict[str, Reading]:
    """Scene and hour whose empty pictures look most alike."""
    seen = clip_look(frames)
    away = {place: unlike(seen, usual)[0] for place, usual in looks.items()}
    scene, time = min(away, key=lambda place: away[place])
    near = away[scene, time]
    rival_scene = min(away[place] for place in away if place[0] != scene)
    rival_time = min(away[place] for place in away if place[1] != time)
    return {
        "scene": Reading(scene, 1 - near / max(rival_scene, 1e-9)),
        "time": Reading(time, 1 - near / max(rival_time, 1e-9)),
    }


def _read_pan(frames: Float[Tensor, "f 3 g v"], covered: Tensor) -> Reading:
    """Where the camera turns: the way the lower half of the picture has moved after some frames, subjects apart."""
    gap = min(12, len(frames) // 2)
    low = GRID // 2
    land = frames[:, :, low:]
    free = functional.max_pool2d((~covered[:, low:]).float()[:, None].neg(), 7, 1, 3).neg()
    far = round(1.3 * PAN_SPEED * gap / FPS * GRID)
    before, after = land[:-gap], land[gap:]
    both = free[:-gap], free[gap:]
    misses = torch.tensor([_miss(before, after, both, shift) for shift in range(-far, far + 1)])
    shift = int(misses.argmin()) - far
    gain = 1 - float(misses[shift + far] / misses[far].clamp_min(1e-9))
    value = "none" if shift == 0 or gain < 0.08 else "left" if shift > 0 else "right"
    return Reading(value, gain if value != "none" else 1 - gain)


def _miss(before: Tensor, after: Tensor, free: tuple[Tensor, Tensor], shift: int) -> float:
    """Mean square difference of the later picture from the earlier one moved to the right by `shift` pixels."""
    width = before.shape[3] - abs(shift)
    here, there = max(0, -shift), max(0, shift)
    weight = free[0][..., here : here + width] * free[1][..., there : there + width]
    gap = (before[..., here : here + width] - after[..., there : there + width]).square() * weight
    return float(gap.sum() / weight.sum().clamp_min(1))
