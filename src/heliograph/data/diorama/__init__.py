"""The diorama: a procedural world of captioned clips with exact ground truth.

This package's names need no torch; `heliograph.data.diorama.render` turns records into frames.
"""

from heliograph.data.diorama.caption import Caption, Prompt, caption, describe, eval_prompts, plain_caption
from heliograph.data.diorama.lexicon import synonyms
from heliograph.data.diorama.record import ATTRIBUTES, Record, Split, is_heldout, sample_record

__all__ = [
    "ATTRIBUTES",
    "Caption",
    "Prompt",
    "Record",
    "Split",
    "caption",
    "describe",
    "eval_prompts",
    "is_heldout",
    "plain_caption",
    "sample_record",
    "synonyms",
]
