"""What a reader of a report is told of a metric."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Described:
    """A metric as the report shows it.

    Attributes:
        name, unit: its title.
        group: metrics that are read together.
        better: "low", "high", or "" where neither is good in itself.
        meaning: one sentence.
    """

    name: str
    unit: str
    group: str
    better: str
    meaning: str
