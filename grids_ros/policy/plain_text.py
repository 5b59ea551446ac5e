"""Instructions are text: no part of one is a special token, whatever it spells.

A tokenizer file lists added tokens, such as `<image>`, `<eos>` or `<loc0001>`. The tokenizer looks for them in every
text, and some models hold them in their vocabulary as well. An operator who types one would otherwise end the prompt,
or claim an image that is not there.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache

from tokenizers import Tokenizer

NEVER = -1e6  # score of a Unigram piece that no text is split into
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # stands for a byte that no piece holds, never for the text of its name
_NAME = "\U000f0000{}\U0010fffd"  # of a control token, in characters for private use


@lru_cache(maxsize=4)
def text_tokenizer(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that takes every text literally; what frames a prompt stays, and so do all ids.

    Added tokens of white space alone, such as runs of line breaks, are still found in a text.
    """
    values = json.loads(tokenizer.to_str())
    added, model = values.get("added_tokens") or [], values["model"]
    control = {token["content"] for token in added if token["content"].strip()}
    names = {content: _NAME.format(index) for index, content in enumerate(sorted(control))}
    for token in added:
        token["content"] = names.get(token["content"], token["content"])
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    _rename(model, names)
    values["truncation"] = values["padding"] = None
    return Tokenizer.from_str(json.dumps(values))


def _rename(model: dict, names: dict[str, str]) -> None:
    """Give control tokens names in the vocabulary that no text spells, and drop the merges that make them."""
    vocabulary = model["vocab"]
    if isinstance(vocabulary, list):  # Unigram, where the position is the id
        model["vocab"] = [
            [names.get(piece, piece), NEVER if piece in names or _BYTE.fullmatch(piece) else score]
            for piece, score in vocabulary
        ]
        return
    model["vocab"] = {names.get(piece, piece): index for piece, index in vocabulary.items()}
    if "merges" in model:
        model["merges"] = [merge for merge in model["merges"] if not _parts(merge) & names.keys()]


def _parts(merge: str | list[str]) -> set[str]:
    """What a merge takes, and what it makes."""
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return {left, right, left + right}
