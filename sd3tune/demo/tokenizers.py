"""Real tokenizers without a download: CLIP's byte-level BPE and T5's unigram, of a few sentences.

They have the layout of the released ones (CLIP: 256 bytes, 256 bytes at a word's end, merges,
start, end), so that transformers' own classes load them; their vocabulary is tiny.
"""

import math
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SENTENCES = [
    "a photograph of an astronaut in an orange suit in front of a flag and a shuttle model",
    "a close portrait of a smiling woman with short curly hair",
    "a tabby cat with green eyes looking into the camera, fur in detail",
    "a cup of coffee on a saucer with a spoon on a wooden table, seen from above",
    "a rocket lifting off at night with fire and smoke over the sea",
    "a man with a camera on a tripod in a field, black and white photograph",
    "distant galaxies in deep space, stars on a black sky, seen by a telescope",
    "a wall of red bricks, texture", "green grass from above, texture", "gravel and small stones",
    "the back of a human eye with its blood vessels, medical photograph",
    "a round clock on a wall, blurred by motion",
    "blurry, low quality, watermark, text, artifacts",
    "the quick brown fox jumps over the lazy dog",
]  # fmt: skip
T5_PIECES, T5_EXTRA_IDS = 220, 10


def clip(sentences: Sequence[str] = SENTENCES) -> Any:
    """Every word of the sentences becomes one token by merging its letters from the left.

    tokenizers' own BPE trainer gives other numbers on each run, and a demo must repeat.
    """
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate(letters)}
    vocabulary |= {f"{letter}</w>": i for i, letter in enumerate(letters, len(letters))}
    merges = []
    words = {w for line in sentences for w in re.findall("[a-z]+", line) if len(w) > 1}
    for word in sorted(words):
        left = word[0]
        for right in [*word[1:-1], word[-1] + "</w>"]:
            if left + right not in vocabulary:
                merges.append((left, right))
                vocabulary[left + right] = len(vocabulary)
            left += right
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    return CLIPTokenizer(
        vocab=vocabulary, merges=merges, pad_token="<|endoftext|>", model_max_length=77
    )


def t5() -> Any:
    """A unigram model trained by sentencepiece, which repeats for the same sentences."""
    import sentencepiece
    from transformers import T5TokenizerFast

    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.txt"
        corpus.write_text("\n".join(SENTENCES * 8), encoding="utf-8")
        sentencepiece.SentencePieceTrainer.train(
            input=str(corpus),
            model_prefix=str(Path(folder) / "spiece"),
            vocab_size=T5_PIECES,
            model_type="unigram",
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            character_coverage=1.0,
            hard_vocab_limit=False,
            num_threads=1,
            minloglevel=2,
        )
        model = sentencepiece.SentencePieceProcessor(model_file=f"{folder}/spiece.model")
    pieces = [(model.id_to_piece(i), model.get_score(i)) for i in range(model.get_piece_size())]
    pieces += [(f"<extra_id_{i}>", 0.0) for i in reversed(range(T5_EXTRA_IDS))]
    return T5TokenizerFast(vocab=pieces, extra_ids=T5_EXTRA_IDS, model_max_length=512)


def t5_of_words(sentences: Sequence[str]) -> Any:
    """A unigram model with a piece for every word of the sentences, and one for every letter."""
    from transformers import T5TokenizerFast

    counts = Counter(w for line in sentences for w in re.findall("[a-z]+", line))
    total = sum(counts.values())
    words = [(f"▁{word}", math.log(n / total)) for word, n in counts.most_common()]
    letters = [(letter, -12.0) for letter in "▁abcdefghijklmnopqrstuvwxyz,.-'"]
    specials = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    known = {piece for piece, _ in words}
    pieces = [*specials, *words, *(pair for pair in letters if pair[0] not in known)]
    pieces += [(f"<extra_id_{i}>", 0.0) for i in reversed(range(T5_EXTRA_IDS))]
    return T5TokenizerFast(vocab=pieces, extra_ids=T5_EXTRA_IDS, model_max_length=512)
