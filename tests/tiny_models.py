"""Model directories that tests make: a few words, a tokenizer, and a table with a row a word."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

DIMENSION = 16
WORDS = (
    "[UNK]",
    "tea",
    "green",
    "black",
    "dog",
    "chess",
    "train",
    "lisbon",
    "biscuit",
    "invoice",
    "paid",
    "!",
    "'",
    ";",
)


def table(seed: int = 7) -> NDArray[np.float32]:
    """A row a word; `black` is near `green`, and a word that is not known is nothing."""
    rows = np.random.default_rng(seed).standard_normal((len(WORDS), DIMENSION)).astype(np.float32)
    rows[WORDS.index("black")] = rows[WORDS.index("green")] + 0.2 * rows[WORDS.index("black")]
    rows[0] = 0.0
    return rows


def write_tokenizer(path: Path) -> None:
    """A tokenizer of whole words, lower case."""
    model = WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]")
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(path))


def static_model(directory: Path, seed: int = 7) -> Path:
    """A static model in the layout of sentence-transformers."""
    folder = directory / "0_StaticEmbedding"
    folder.mkdir(parents=True)
    modules = [
        {"idx": 0, "name": "0", "path": folder.name, "type": "sentence_transformers.models.StaticEmbedding"},
        {"idx": 1, "name": "1", "path": "1_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    (directory / "modules.json").write_text(json.dumps(modules))
    write_tokenizer(folder / "tokenizer.json")
    save_file({"embedding.weight": table(seed)}, folder / "model.safetensors")
    return directory


def model2vec(directory: Path) -> Path:
    """The same in the layout of Model2Vec, with shared rows and a weight for each token."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps({"model_type": "model2vec"}))
    write_tokenizer(directory / "tokenizer.json")
    tensors: dict[str, NDArray[Any]] = {
        "embeddings": 2 * table()[::-1].copy(),
        "mapping": np.arange(len(WORDS), dtype=np.int64)[::-1].copy(),
        "weights": np.full(len(WORDS), 0.5, dtype=np.float64),
    }
    save_file(tensors, directory / "model.safetensors")
    return directory


def transformer(directory: Path, seed: int = 3) -> Path:
    """A transformer of two small layers with mean pooling; needs the library sentence-transformers and its torch."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    torch.manual_seed(seed)
    plain = directory.parent / f"{directory.name}-plain"
    plain.mkdir(parents=True)
    write_tokenizer(plain / "tokenizer.json")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(plain / "tokenizer.json"), unk_token="[UNK]", pad_token="[UNK]", model_max_length=64
    )
    tokenizer.save_pretrained(plain)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=DIMENSION,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * DIMENSION,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(plain)
    words = Transformer(str(plain), max_seq_length=64)
    SentenceTransformer(modules=[words, Pooling(DIMENSION)], device="cpu").save(str(directory))
    return directory
