"""Small tokenizers of the four kinds that models have, trained on a few sentences."""

import json
import string
from collections.abc import Callable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

PROSE = [
    "The quick brown fox jumps over the lazy dog, and then the other dogs bark at the fox.",
    "Merging models is averaging them; averaging the averages is what the others are doing.",
    "Der schnelle Fuchs springt über den faulen Hund, während die Vögel singen.",
    "Où est passé le garçon? Il a déjà mangé le gâteau, naïvement.",
]
CODE = [
    "def merge(models, weights):\n    return sum(w * m for w, m in zip(weights, models))",
    "for (let i = 0; i < models.length; i++) {\n\tconsole.log(models[i].name);\n}",
    "Быстрая лиса прыгает через ленивую собаку, а собака спит.",
    "敏捷的棕色狐狸跳过了懒狗。模型合并很有用。",
]
SPECIAL_OF_PROSE = ["<pad>", "<s>", "</s>", "<unk>", "<|system|>"]
SPECIAL_OF_CODE = ["<unk>", "<s>", "<|tool|>", "</s>", "<pad>"]
LETTERS = list(string.ascii_letters + string.digits + string.punctuation)
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level_bpe(corpus: list[str], special: list[str]) -> Tokenizer:
    """As Llama 3 and Qwen have it, with the special tokens behind the pieces."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    train(tokenizer, corpus, trainers.BpeTrainer, 400, [], initial_alphabet=letters)
    tokenizer.add_special_tokens(special)
    return tokenizer


def metaspace_bpe(corpus: list[str], special: list[str]) -> Tokenizer:
    """As Llama 2 and Mistral have it: a mark for spaces, and bytes for what the vocabulary lacks."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    train(tokenizer, corpus, trainers.BpeTrainer, 500, special + BYTES)
    return without_added(tokenizer, BYTES)


def unigram(corpus: list[str], special: list[str]) -> Tokenizer:
    """As T5 and Gemma's elders have it."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    more = dict(initial_alphabet=LETTERS, unk_token="<unk>")
    return train(tokenizer, corpus, trainers.UnigramTrainer, 300, special, **more)


def word_piece(corpus: list[str], special: list[str]) -> Tokenizer:
    """As BERT has it."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    return train(tokenizer, corpus, trainers.WordPieceTrainer, 300, special, initial_alphabet=LETTERS)


def train(tokenizer, corpus, trainer, size: int, special: list[str], **more) -> Tokenizer:
    tokenizer.train_from_iterator(
        corpus * 4, trainer(vocab_size=size, special_tokens=special, show_progress=False, **more)
    )
    return tokenizer


def without_added(tokenizer: Tokenizer, tokens: list[str]) -> Tokenizer:
    """These stay in the vocabulary, but are no longer found in the text as they stand."""
    description = json.loads(tokenizer.to_str())
    description["added_tokens"] = [a for a in description["added_tokens"] if a["content"] not in tokens]
    return Tokenizer.from_str(json.dumps(description))


Kind = Callable[[list[str], list[str]], Tokenizer]

# The kinds of two models that are merged.
KINDS: dict[str, tuple[Kind, Kind]] = {
    "byte-level BPE": (byte_level_bpe, byte_level_bpe),
    "BPE with spaces marked": (metaspace_bpe, metaspace_bpe),
    "Unigram": (unigram, unigram),
    "WordPiece": (word_piece, word_piece),
    "byte-level BPE, other BPE": (byte_level_bpe, metaspace_bpe),
    "BPE with spaces marked, Unigram": (metaspace_bpe, unigram),
    "Unigram, WordPiece": (unigram, word_piece),
    "WordPiece, byte-level BPE": (word_piece, byte_level_bpe),
}
