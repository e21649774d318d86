"""Encoders from a directory in the layout of sentence-transformers, or of Model2Vec.

A static model (one vector a token) is a table and a tokenizer: it is run here, and the words of a question count by
their rarity as with the default encoder. A transformer is run by the library `sentence-transformers`, which is
installed by the extra of that name, because it brings torch.
"""

from __future__ import annotations

import hashlib
import json
import threading
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from mnemo_index.domain.models import SENTENCE_TRANSFORMERS, VARIABLE, Model
from mnemo_index.storage.token_table import MAX_CHARACTERS, TokenTableEncoder, unit_rows
from mnemocore.errors import InvalidSettingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mnemo_index.domain.encoder import Engine

_TABLES: Final = ("embeddings", "embedding.weight")
"""What the table is called by Model2Vec and by sentence-transformers."""
_HASHED: Final = (".safetensors", ".bin", ".json", ".txt", ".model")
_AT_ONCE: Final = 1 << 22


def open_directory(directory: Path) -> Engine:
    """The encoder of a model directory. Raises InvalidSettingError that says what is missing or wrong in it."""
    if not directory.is_dir():
        raise _refused(directory, "there is no such directory")
    if not any(directory.rglob("*.safetensors")) and not any(directory.rglob("*.bin")):
        raise _refused(directory, "it holds no weights (*.safetensors or *.bin)")
    checksum = _checksum(directory)
    folder = _static_folder(directory)
    if folder is not None:
        return _static(directory, folder, checksum)
    return TransformerEncoder.load(directory, checksum)


class TransformerEncoder:
    """A transformer run by the library sentence-transformers, on the CPU. Safe for use by many threads."""

    def __init__(self, transformer: Any, card: Model) -> None:
        self._transformer = transformer
        self._card = card
        self._lock = threading.Lock()  # its tokenizer is not made for several threads

    @classmethod
    def load(cls, directory: Path, checksum: str) -> TransformerEncoder:
        """The encoder of a directory; no network is used. Raises InvalidSettingError."""
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            why = "it holds a transformer, for which mnemocore[sentence-transformers] has to be installed"
            raise _refused(directory, why) from None
        try:
            transformer = SentenceTransformer(str(directory), device="cpu", local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise _refused(directory, f"it cannot be loaded: {error}") from error
        dimension = transformer.get_sentence_embedding_dimension()
        if not dimension:
            raise _refused(directory, "its pooling names no dimension")
        return cls(transformer, _card(directory, checksum, int(dimension)))

    def close(self) -> None:
        """There is nothing to let go of."""

    @property
    def card(self) -> Model:
        """What is known of the model."""
        return self._card

    @property
    def model(self) -> str:
        """Name of the directory and the first 12 digits of the checksum."""
        return self._card.name

    @property
    def dimension(self) -> int:
        """Numbers a vector."""
        return self._card.dimension

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One row of length 1 a text; zeros for an empty text. Longer texts than the model reads are cut by it."""
        return self._encode(texts, None)

    def encode_weighted(self, words: Sequence[str], weights: Sequence[float]) -> NDArray[np.float32]:
        """The vector of the words that have a weight, as one text: a transformer cannot weigh."""
        return self.encode_query(" ".join(word for word, weight in zip(words, weights, strict=True) if weight > 0))

    def encode_query(self, query: str) -> NDArray[np.float32]:
        """The vector of a question, with the prompt that the model wants before questions, if it wants one."""
        prompt = "query" if "query" in (self._transformer.prompts or {}) else None
        (vector,) = self._encode([query], prompt)
        return np.asarray(vector, dtype=np.float32)

    def _encode(self, texts: Sequence[str], prompt: str | None) -> NDArray[np.float32]:
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        told = [place for place, text in enumerate(texts) if text.strip()]
        if told:
            cut = [texts[place][:MAX_CHARACTERS] for place in told]
            with self._lock:
                encoded = self._transformer.encode(cut, prompt_name=prompt, show_progress_bar=False)
            vectors[told] = unit_rows(np.asarray(encoded, dtype=np.float32))
        return vectors


def _static(directory: Path, folder: Path, checksum: str) -> TokenTableEncoder:
    try:
        tensors = load_file(folder / "model.safetensors")
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except (OSError, SafetensorError) as error:
        raise _refused(directory, f"it cannot be read: {error}") from error
    except Exception as error:  # what the tokenizers library raises for a file it cannot parse has no other class
        raise _refused(directory, f"tokenizer.json cannot be read: {error}") from error
    weights = _table(tensors)
    if weights is None or len(weights) < tokenizer.get_vocab_size():
        raise _refused(directory, f"model.safetensors has no table ({' or '.join(_TABLES)}) with a row a token")
    return TokenTableEncoder(weights, tokenizer, _card(directory, checksum, int(weights.shape[1])))


def _table(tensors: dict[str, NDArray[np.generic]]) -> NDArray[np.float32] | None:
    """One row a token; Model2Vec may keep rows that tokens share, and a weight for each token. None without a table."""
    table = next((tensors[name] for name in _TABLES if name in tensors), None)
    if table is None or table.ndim != 2:
        return None
    weights = table.astype(np.float32)
    if "mapping" in tensors:
        weights = weights[tensors["mapping"].astype(np.int64)]
    if "weights" in tensors:
        weights = weights * tensors["weights"].astype(np.float32)[:, None]
    return weights


def _static_folder(directory: Path) -> Path | None:
    """Where table and tokenizer of a static model are; None if the model is not static."""
    modules = directory / "modules.json"
    if not modules.is_file():
        static = (directory / "model.safetensors").is_file() and (directory / "tokenizer.json").is_file()
        return directory if static and _says_model2vec(directory / "config.json") else None
    try:
        first = json.loads(modules.read_text())[0]
        kind, path = str(first["type"]), str(first["path"])
    except (ValueError, LookupError, TypeError) as error:
        raise _refused(directory, f"modules.json cannot be read: {error}") from error
    return directory / path if kind.rpartition(".")[2] == "StaticEmbedding" else None


def _says_model2vec(config: Path) -> bool:
    try:
        said = json.loads(config.read_text())
    except (OSError, ValueError):
        return False
    return isinstance(said, dict) and said.get("model_type") == "model2vec"


def _card(directory: Path, checksum: str, dimension: int) -> Model:
    id = f"{SENTENCE_TRANSFORMERS}/{directory.name}"
    version = checksum[:12]
    setting = f"{SENTENCE_TRANSFORMERS}:{directory.absolute()}"
    return Model(f"{id}@{version}", id, version, dimension, checksum, setting)


def _checksum(directory: Path) -> str:
    """The SHA-256 over the names and contents of the files that decide what the vectors are."""
    digest = hashlib.sha256()
    for path in _decisive(directory):
        digest.update(f"{path.relative_to(directory).as_posix()}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while part := file.read(_AT_ONCE):
                digest.update(part)
    return digest.hexdigest()


def _decisive(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.rglob("*")):
        if path.suffix in _HASHED and path.is_file() and not path.name.startswith("."):
            yield path


def _refused(directory: Path, why: str) -> InvalidSettingError:
    return InvalidSettingError(f"{VARIABLE} = {SENTENCE_TRANSFORMERS}:{directory}: {why}", setting=VARIABLE)
