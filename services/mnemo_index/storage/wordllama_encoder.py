"""The default encoder: static token embeddings from the wheel of WordLlama, mean-pooled. Needs no network.

Only the data files of the wheel are used; its code is not imported.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import Final

from safetensors.numpy import load_file
from tokenizers import Tokenizer

from mnemo_index.domain.models import WORDLLAMA, Model
from mnemo_index.storage.token_table import MAX_CHARACTERS, TokenTableEncoder
from mnemocore.errors import InvalidSettingError

WEIGHTS: Final = "weights/l2_supercat_256.safetensors"
TOKENIZER: Final = "tokenizers/l2_supercat_tokenizer_config.json"
_ID: Final = "wordllama/l2_supercat_256"

__all__ = ["MAX_CHARACTERS", "TOKENIZER", "WEIGHTS", "WordLlamaEncoder"]


class WordLlamaEncoder(TokenTableEncoder):
    """256 numbers a text: the mean of its tokens' embeddings, scaled to length 1."""

    @classmethod
    def load(cls, directory: Path | None = None) -> WordLlamaEncoder:
        """The encoder from the files of the installed wheel, or of `directory` if one is given.

        Raises InvalidSettingError that names the missing file.
        """
        folder = _wheel_folder() if directory is None else directory
        for name in (WEIGHTS, TOKENIZER):
            if not (folder / name).is_file():
                raise InvalidSettingError(
                    f"encoder wordllama: {name} is missing; reinstall the package wordllama", setting="encoder"
                )
        checksum = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
        (weights,) = load_file(folder / WEIGHTS).values()
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        version = checksum[:12]
        card = Model(f"{_ID}@{version}", _ID, version, int(weights.shape[1]), checksum, WORDLLAMA)
        return cls(weights, tokenizer, card)


def _wheel_folder() -> Path:
    spec = importlib.util.find_spec("wordllama")
    if spec is None or not spec.submodule_search_locations:
        raise InvalidSettingError("encoder wordllama: the package wordllama is not installed", setting="encoder")
    return Path(spec.submodule_search_locations[0])
