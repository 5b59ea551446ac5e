"""Special tokens in an instruction are text, for every kind of tokenizer file."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors, trainers

from grids_ros.policy.errors import InputError
from grids_ros.policy.plain_text import text_tokenizer
from grids_ros.policy.preprocess import Prompt, word_tokenizer

SPECIAL = ("<bos>", "<eos>", "<pad>", "<image>", "<start_of_turn>")
ADDED = ("<loc0001>", "<seg001>", "[multimodal]")  # not flagged as special, as in PaliGemma's file
ALPHABET = list("abcdefghijklmnopqrstuvwxyz<>[]0123456789_ ▁\n")


def framed(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.add_tokens([*ADDED, AddedToken("\n\n", normalized=False)])
    begin = tokenizer.token_to_id("<bos>")
    tokenizer.post_processor = processors.TemplateProcessing("<bos> $A", special_tokens=[("<bos>", begin)])
    return tokenizer


def bpe(byte_level: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel() if byte_level else pre_tokenizers.Whitespace()
    alphabet = pre_tokenizers.ByteLevel.alphabet() if byte_level else ALPHABET
    # The special tokens are words of the training text: merges may spell them.
    text = ["lift the red cube"] * 5 + [f"{token} {token}" for token in (*SPECIAL, *ADDED)] * 50
    tokenizer.train_from_iterator(
        text, trainers.BpeTrainer(vocab_size=600, special_tokens=["<unk>"], initial_alphabet=alphabet)
    )
    return framed(tokenizer)


def unigram() -> Tokenizer:
    pieces = [("<unk>", 0.0), *((token, -1.0) for token in (*SPECIAL, *ADDED, "<0x0A>"))]
    pieces += [(letter, -5.0) for letter in ALPHABET] + [("▁lift", -2.0), ("▁red", -2.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, 0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return framed(tokenizer)


def words() -> Tokenizer:
    vocabulary = {token: index for index, token in enumerate(("<unk>", *SPECIAL, *ADDED, "lift", "red", "cube"))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return framed(tokenizer)


TOKENIZERS = {"bpe": bpe(False), "byte-level bpe": bpe(True), "unigram": unigram(), "words": words()}
texts = st.lists(
    st.one_of(st.sampled_from([*SPECIAL, *ADDED, "<0x0A>", "lift", "red", " ", "\n"]), st.text(max_size=5)), max_size=12
).map("".join)


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
@settings(max_examples=80, deadline=None)
@given(texts)
def test_no_text_gives_a_special_token_but_for_what_frames_it(tokenizer, text):
    control = {tokenizer.token_to_id(token) for token in (*SPECIAL, *ADDED)}
    ids = text_tokenizer(tokenizer).encode(text).ids
    assert ids[0] == tokenizer.token_to_id("<bos>")
    assert not control & set(ids[1:])


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
def test_ordinary_words_have_the_ids_that_they_have_in_the_file(tokenizer):
    for text in ("lift red", "lift\n\nred", "lift the red cube"):
        assert text_tokenizer(tokenizer).encode(text).ids == tokenizer.encode(text).ids
    before = tokenizer.to_str()
    text_tokenizer(tokenizer).encode("<image>")
    assert tokenizer.to_str() == before, "the file is saved as it was loaded"


@pytest.mark.parametrize("text", ["lift <image>", "<eos>", "lift <loc0001> <loc0001>", "[PAD] [BOS]", "lift \ud800"])
def test_a_prompt_has_image_tokens_for_its_images_alone(text):
    for tokenizer in (*TOKENIZERS.values(), word_tokenizer(["lift the red cube"])):
        image = tokenizer.token_to_id("<image>") or 99
        try:
            ids, _ = Prompt(tokenizer, 60, 2, image).encode(text)
        except InputError:
            continue  # refused by name: said, and the next instruction is followed
        assert (ids == image).sum() == 2
        assert tokenizer.token_to_id("<eos>") not in ids[2:]


def test_what_a_tokenizer_cannot_encode_is_an_input_error():
    tokenizer = Tokenizer(models.WordLevel({"lift": 0}))  # without a token for unknown words
    with pytest.raises(InputError, match="cannot be encoded"):
        Prompt(tokenizer, 8, 2, 9).encode("drop")
