"""Everything that an evaluation found, and what it depends on: the contents of `report.json`."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from string import ascii_uppercase
from typing import Any

from heliograph.evaluate.catalogue import VERSION
from heliograph.evaluate.every import EVERY
from heliograph.evaluate.heliosbench import NETWORKS, SIGNED_MOTION, Quirk, Scorecard
from heliograph.evaluate.statistics import Interval
from heliograph.evaluate.summary import Compared, Folder, Judged, compare, heliosbench, reasons, worst_clips
from heliograph.revision import revision


@dataclass(frozen=True)
class Settings:
    """What was asked for.

    Attributes:
        chunk_frames: frames between chunk borders.
        prompts: the file of prompts, "" for none.
        networks: what each loaded network is, by metric.
    """

    chunk_frames: int
    prompts: str
    networks: Mapping[str, str]


@dataclass(frozen=True)
class Report:
    """One folder of videos, or several, each compared with the first (it minus the first)."""

    folders: tuple[Folder, ...]
    comparison: tuple[Compared, ...]
    settings: Settings
    facts: dict[str, str]

    @classmethod
    def of(cls, folders: Sequence[Folder], settings: Settings) -> "Report":
        """Of folders whose videos have been scored."""
        return cls(tuple(_told_apart(folders)), tuple(compare(folders)), settings, facts())

    def as_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "facts": self.facts,
            "settings": asdict(self.settings),
            "metrics": {
                metric.name: {"unit": metric.unit, "better": metric.better, "meaning": metric.meaning}
                for metric in EVERY
            },
            "folders": [_folder_json(folder) for folder in self.folders],
            "comparison": [
                {
                    "folder": self.folders[one.other].name,
                    "against": self.folders[0].name,
                    "metric": one.metric.name,
                    "difference": asdict(one.test.difference),
                    "p": one.test.p,
                    "p_together": one.p_together,
                }
                for one in self.comparison
            ],
        }


def facts() -> dict[str, str]:
    """Versions and commit."""
    return {
        "heliograph": metadata.version("heliograph"),
        "commit": revision() or "installed package",
        "metrics version": str(VERSION),
        "opencv": metadata.version("opencv-python-headless"),
        "python": platform.python_version(),
    }


def _told_apart(folders: Sequence[Folder]) -> list[Folder]:
    """Folders of one name are A, B, … of it."""
    names = [folder.name for folder in folders]
    if len(set(names)) == len(names):
        return list(folders)
    return [replace(f, name=f"{f.name} ({letter})") for f, letter in zip(folders, ascii_uppercase, strict=False)]


def _folder_json(folder: Folder) -> dict[str, Any]:
    reference, corrected = heliosbench(folder)
    return {
        "name": folder.name,
        "videos": [_video_json(judged) for judged in folder.videos],
        "refused": [{"video": one.video.name, "reason": one.scored.refusal} for one in folder.refused],
        "scores": {metric.name: _mean_json(folder.mean(metric.name)) for metric in EVERY},
        "not_measured": {m.name: found for m in EVERY if (found := dict(reasons(folder, m.name)))},
        "frechet_distance": None if folder.distance is None else asdict(folder.distance),
        "made": None if folder.made is None else asdict(folder.made),
        "worst": [
            {"video": worst.judged.video.name, "badness": worst.badness, "faults": [m.name for m, _ in worst.faults]}
            for worst in worst_clips(folder)
        ],
        "heliosbench": {
            "reference": _card_json(reference),
            "corrected": _card_json(corrected),
            "needs": NETWORKS,
            "quirks": [SIGNED_MOTION, *(quirk.value for quirk in Quirk)],
        },
    }


def _video_json(judged: Judged) -> dict[str, Any]:
    return {
        "video": judged.video.name,
        "prompt": judged.video.prompt,
        **(asdict(judged.scored.shape) if judged.scored.shape else {}),
        "scores": {name: score.value for name, score in judged.scored.scores.items()},
    }


def _mean_json(found: Interval | None) -> dict[str, Any] | None:
    return None if found is None else asdict(found)


def _card_json(card: Scorecard) -> dict[str, Any]:
    return {"total": card.total, "weight": card.weight, "rows": [asdict(row) for row in card.rows]}
