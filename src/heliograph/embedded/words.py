"""The tokenizer of the embedded model: synonyms become canonical words in its normalizer, then byte-pair encoding.

The lexicon is a list of whole-word replacements inside `tokenizer.json`, so every loader applies it. The same words
would otherwise have to be learned from captions, which takes a larger text encoder than this model has.
"""

import re
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from heliograph.data.diorama.caption import caption, plain_caption
from heliograph.data.diorama.lexicon import COUNT_WORDS, MOTION_WORDS, VERBS, synonyms
from heliograph.embedded.mix import mixed_record

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
"""Ids 0, 1 and 2, as in every T5 model."""

MOVES = "moves"
"""What every verb of the lexicon becomes."""

PATHS = {
    "left": "leftwards",
    "right": "rightwards",
    "circle": "circling",
    "back and forth": "sideways",
    "up and down": "vertically",
}
"""One word for each way to move, and not one that says how the camera pans: which of the two is meant by "left" would
have to be learned."""

FILLERS = {"watch": "", "as": "while", "an": "a", "look": "", "here": ""}
"""Words that say nothing about the picture."""

VOCABULARY = 512
"""At most; whole words of the captions, and letters for all others."""


def make_tokenizer(num_captions: int, max_tokens: int) -> PreTrainedTokenizerFast:
    """The tokenizer for captions of the world, trained on `num_captions` of the mix."""
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), *_replacements()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, END, UNKNOWN],
        initial_alphabet=[chr(code) for code in range(ord("!"), ord("~") + 1)],
        show_progress=False,
    )
    texts = (text(mixed_record(seed), seed) for seed in range(num_captions) for text in (caption, _plain))
    tokenizer.train_from_iterator(texts, trainer)
    end = tokenizer.token_to_id(END)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, end)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_tokens,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        padding_side="right",
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write it in the layout of the released models."""
    tokenizer.save_pretrained(folder)


def _plain(record, _seed: int) -> str:
    return plain_caption(record)


def _verbs() -> dict[str, str]:
    """Every verb as one: what moves, and how, other words say."""
    verbs = [verb for both in VERBS.values() for some in both for verb in some]
    return dict.fromkeys((form for verb in verbs for form in (verb.plural, verb.singular, verb.participle)), MOVES)


def _paths() -> dict[str, str]:
    """Every way to move in one word of its own."""
    return {form: PATHS[motion] for motion, forms in MOTION_WORDS.items() for form in (*forms.train, *forms.heldout)}


def _counts() -> dict[str, str]:
    """Two and three in one word each, and a single one; a plain article stays."""
    canonical = {1: "one", 2: "two", 3: "three"}
    return {
        form: canonical[count]
        for count, forms in COUNT_WORDS.items()
        for form in (*forms.train, *forms.heldout)
        if form != "a"
    }


def _replacements() -> list[normalizers.Replace]:
    """Whole-word replacements of the lexicon, longest first, and signs of their own between words.

    A form inside another that was just put there must stay: a replacement is marked by a sign until all are done.
    """
    rules = [normalizers.Replace(Regex(r"\s*([.,;:])\s*"), " , ")]
    done: list[normalizers.Replace] = []
    forms = synonyms() | _verbs() | _paths() | _counts() | FILLERS
    for number, (form, canonical) in enumerate(sorted(forms.items(), key=lambda pair: (-len(pair[0]), pair[0]))):
        sign = chr(0xE000 + number)
        rules.append(normalizers.Replace(Regex(rf"(?<![\w-]){re.escape(form.lower())}(?![\w-])"), sign))
        done.append(normalizers.Replace(sign, canonical.lower()))
    tidy = [(r"(\s*,)+\s*", " , "), (r"^[\s,]+|[\s,]+$", ""), (r"\s+", " ")]
    return [*rules, *done, *(normalizers.Replace(Regex(pattern), sign) for pattern, sign in tidy)]
