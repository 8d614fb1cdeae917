"""Checks the files of a tokenizer: they are whole, belong together, and number their tokens as the
text encoder's embeddings do.

transformers makes up what a tokenizer lacks. Without tokenizer_3 it invents one, without merges.txt
it invents merges, and a vocabulary that was cut off turns words into unknown tokens: the run would
train on captions that nobody wrote. tokenizers and sentencepiece read the files here; no torch.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sd3tune.errors import ModelError
from sd3tune.filesystem import opening
from sd3tune.sd3 import configs
from sd3tune.sd3.configs import AGAIN

Kind = Literal["clip", "t5"]
CONFIG, WHOLE = "tokenizer_config.json", "tokenizer.json"
VOCABULARY, MERGES, PIECES = "vocab.json", "merges.txt", "spiece.model"
# Sets of files, each enough by itself.
FILES: dict[Kind, tuple[tuple[str, ...], ...]] = {
    "clip": ((WHOLE,), (VOCABULARY, MERGES)),
    "t5": ((WHOLE,), (PIECES,)),
}
MODELS: dict[Kind, str] = {"clip": "BPE", "t5": "Unigram"}  # names of the tokenizers library
CALLED: dict[Kind, str] = {"clip": "CLIP", "t5": "T5"}
SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")
CLIP_SPECIAL = ("<|startoftext|>", "<|endoftext|>")
# Rows of the embeddings without a token: T5-XXL's are padded by 28, or by 128 where its tokenizer
# counts the 100 extra ids itself.
MAX_UNUSED_ROWS = 128


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of one tokenizer."""

    folder: Path
    ids: Mapping[str, int]  # token -> number
    eos: str | None  # the token that ends a caption
    max_length: int | None  # tokens of one caption, as tokenizer_config.json limits them

    @property
    def size(self) -> int:
        """The largest number of a token, and one."""
        return max(self.ids.values()) + 1


def read(folder: Path, kind: Kind) -> Vocabulary:
    """The vocabulary of a tokenizer, after checking every file. Raises ModelError."""
    named = [name for files in FILES[kind] for name in files]
    if not any((folder / name).exists() for name in named if name != MERGES):
        words = f"`{folder}` holds no vocabulary: none of {', '.join(named)}"
        raise ModelError(words, hint=AGAIN)
    if not (folder / WHOLE).exists():
        for name in FILES[kind][1]:
            if not (folder / name).exists():
                raise ModelError(f"`{folder / name}` is missing", hint=AGAIN)
    if not (folder / CONFIG).exists():
        raise ModelError(f"`{folder / CONFIG}` is missing", hint=AGAIN)
    config = configs.json_object(folder / CONFIG)
    present = [files for files in FILES[kind] if all((folder / n).exists() for n in files)]
    tokens = [_READ[files](folder, kind) for files in present]
    ids = dict(tokens[0]) | _added(folder, config)
    if not ids:
        raise ModelError(f"`{folder / present[0][0]}` holds no tokens", hint=AGAIN)
    eos = _special(config, "eos_token") or (CLIP_SPECIAL[1] if kind == "clip" else "</s>")
    _refuse_unknown_special(folder, config, ids, kind)
    length = config.get("model_max_length")
    return Vocabulary(folder, ids, eos, length if isinstance(length, int) else None)


def refuse_unfit(vocabulary: Vocabulary, rows: int, encoder: Path) -> None:
    """Refuses a vocabulary that numbers its tokens otherwise than the encoder's embeddings. rows:
    of the embeddings. Raises ModelError."""
    size = vocabulary.size
    if size > rows or rows - size > MAX_UNUSED_ROWS:
        raise ModelError(
            f"`{vocabulary.folder}` has {size:,} tokens, but `{encoder}` has embeddings of "
            f"{rows:,}",
            hint=f"use a tokenizer and a text encoder of the same model, or {AGAIN}",
        )


def _whole(folder: Path, kind: Kind) -> dict[str, int]:
    """The tokens of a tokenizer.json."""
    from tokenizers import Tokenizer

    path = folder / WHOLE
    model = configs.json_object(path).get("model")
    given = model if isinstance(model, dict) else {}
    found = given.get("type") or ("Unigram" if isinstance(given.get("vocab"), list) else "BPE")
    if found != MODELS[kind]:
        raise ModelError(
            f"`{path}` is a tokenizer of the kind {str(found)[:40]}, and {CALLED[kind]} needs "
            f"{MODELS[kind]}",
            hint=AGAIN,
        )
    try:
        tokenizer = Tokenizer.from_str(opening.text(path))
    except Exception as e:  # the library raises plain Exception
        raise _damaged(path, e) from None
    ids: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
    _refuse_moved(path, ids)
    if kind == "clip":
        own = tokenizer.get_vocab(with_added_tokens=False)
        _refuse_unmerged(path, own, [m if isinstance(m, str) else "".join(m)
                                     for m in given.get("merges") or ()])  # fmt: skip
    return ids


def _refuse_moved(path: Path, ids: Mapping[str, int]) -> None:
    """The library numbers an added token anew where the vocabulary before it was cut off."""
    for token in configs.json_object(path).get("added_tokens") or ():
        name, number = token["content"], token["id"]  # the library has read both
        if ids.get(name) != number:
            words = f"`{path}`: the token {name[:40]!r} has the number {number}, but the vocabulary"
            raise ModelError(f"{words} before it ends at {ids.get(name)}", hint=AGAIN)


def _vocabulary_and_merges(folder: Path, kind: Kind) -> dict[str, int]:
    """The tokens of a vocab.json, whose merges.txt makes them."""
    from tokenizers.models import BPE

    path = folder / MERGES
    ids = configs.json_object(folder / VOCABULARY)
    if not ids or not all(type(n) is int and 0 <= n < configs.LARGEST for n in ids.values()):
        words = f"`{folder / VOCABULARY}` does not hold tokens with their numbers"
        raise ModelError(words, hint=AGAIN)
    try:
        lines = opening.text(path).split("\n")
    except (OSError, UnicodeDecodeError) as e:
        raise _damaged(path, e) from None
    merges = [line for line in lines if line and not line.startswith("#version")]
    _refuse_unmerged(path, ids, merges)
    try:
        BPE.from_file(str(folder / VOCABULARY), str(path))
    except Exception as e:  # the library raises plain Exception
        raise _damaged(path, e) from None
    return ids


def _pieces(folder: Path, kind: Kind) -> dict[str, int]:
    """The tokens of a spiece.model."""
    import sentencepiece

    path = folder / PIECES
    try:
        with opening.opened(path, opening.MAX_TEXT_BYTES) as f:
            model = sentencepiece.SentencePieceProcessor(model_proto=f.read())
        return {model.id_to_piece(i): i for i in range(model.get_piece_size())}
    except (OSError, RuntimeError) as e:
        raise _damaged(path, e) from None


_READ = {(WHOLE,): _whole, (VOCABULARY, MERGES): _vocabulary_and_merges, (PIECES,): _pieces}


def _refuse_unmerged(path: Path, ids: Iterable[str], merges: Iterable[str]) -> None:
    """Every token of CLIP's that is longer than one letter is the result of a merge. Raises
    ModelError where the merges of some are missing: their words would fall apart into letters."""
    made = {merge.replace(" ", "") for merge in merges}
    longer = {t for t in ids if len(t.removesuffix("</w>")) > 1 and not _is_special(t)}
    if lost := len(longer - made):
        words = f"`{path}`: merges of {lost:,} of {len(longer):,} tokens are missing"
        raise ModelError(words, hint=AGAIN)


def _is_special(token: str) -> bool:
    return token.startswith("<") and token.endswith(">")


def _added(folder: Path, config: Mapping[str, Any]) -> dict[str, int]:
    """Tokens that were added to the vocabulary, as the configuration or added_tokens.json lists
    them."""
    found: dict[str, int] = {}
    listed = config.get("added_tokens_decoder")
    for number, token in (listed if isinstance(listed, dict) else {}).items():
        if isinstance(token, dict) and isinstance(token.get("content"), str) and number.isdecimal():
            found[token["content"]] = int(number[:12])
    path = folder / "added_tokens.json"
    if path.exists():
        found |= {k: v for k, v in configs.json_object(path).items() if type(v) is int}
    return found


def _special(config: Mapping[str, Any], name: str) -> str | None:
    token = config.get(name)
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _refuse_unknown_special(
    folder: Path, config: Mapping[str, Any], ids: Mapping[str, int], kind: Kind
) -> None:
    """transformers gives a special token that the vocabulary lacks a new number, for which the
    encoder has no embedding."""
    named = {name: token for name in SPECIAL if (token := _special(config, name))}
    if kind == "clip":
        named = dict(zip(SPECIAL[:2], CLIP_SPECIAL, strict=True)) | named
    for token in named.values():
        if token not in ids:
            words = f"`{folder}`: the vocabulary lacks the special token {token[:40]!r}"
            raise ModelError(words, hint=AGAIN)


def _damaged(path: Path, error: Exception) -> ModelError:
    why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ModelError(f"`{path}` is damaged: {why[:200]}", hint=AGAIN)
