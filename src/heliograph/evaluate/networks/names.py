"""The metrics that a network gives, as the report shows them; each has a drift. Imports no network."""

from heliograph.evaluate.described import Described

NETWORK_METRICS: tuple[Described, ...] = (
    Described(
        "aesthetic", "", "networks", "high", "CLIP ViT-L/14 and LAION's linear head, over ten; mean over frames."
    ),
    Described("motion smoothness", "", "networks", "high", "Odd frames made again by AMT-S from their neighbours."),
    Described("semantic", "", "networks", "high", "Cosine of ViCLIP's features of 8 frames and of the prompt."),
    Described("naturalness", "", "networks", "high", "How sure a judge is that 16 frames are not made by a machine."),
    Described("aesthetic drift", "", "networks", "low", "Of the first 15 % against the last 15 %."),
    Described(
        "motion smoothness drift", "", "networks", "low", "Of the first 15 % against the last, 4 frames at least."
    ),
    Described("semantic drift", "", "networks", "low", "Of 8 frames of the first 15 % against 8 of the last."),
    Described("naturalness drift", "", "networks", "low", "Of 16 frames of the first 15 % against 16 of the last."),
)
