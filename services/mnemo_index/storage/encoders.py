"""Opening encoders: the one a setting names, the one of encrypted spaces, and those that made older vectors."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mnemo_index.domain.models import OPENAI, SENTENCE_TRANSFORMERS, EncoderChoice, Encoders, Model, parse
from mnemo_index.domain.query_cache import cached
from mnemo_index.storage.model_directory import open_directory
from mnemo_index.storage.openai_encoder import OpenAIEncoder
from mnemo_index.storage.wordllama_encoder import WordLlamaEncoder

if TYPE_CHECKING:
    from mnemo_index.domain.encoder import Engine
    from mnemo_index.domain.query_cache import QueryCache
    from mnemo_index.storage.model_records import ModelRecords
    from mnemocore.clock import Clock


def open_encoder(choice: EncoderChoice, known: list[Model], clock: Clock | None = None) -> Engine:
    """The encoder of a choice; `known` are the models of which the dimension is known. Blocks.

    Raises InvalidSettingError in one line that says what is wrong and what is allowed.
    """
    name = parse(choice.setting)
    if name.engine == OPENAI:
        setting = f"{OPENAI}:{name.location}#{name.model}"
        dimension = next((model.dimension for model in reversed(known) if model.setting == setting), 0)
        return OpenAIEncoder.open(name, choice, dimension, clock)
    if name.engine == SENTENCE_TRANSFORMERS:
        return open_directory(Path(name.location))
    return WordLlamaEncoder.load()


def open_encoders(choice: EncoderChoice, records: ModelRecords, cache: QueryCache, clock: Clock) -> Encoders:
    """The encoders of an index, whose models are put on record; `cache` remembers the vectors of questions. Blocks.

    Raises InvalidSettingError.
    """
    known = records.load()
    chosen = open_encoder(choice, known, clock)
    encrypted = chosen
    if chosen.card.remote and not choice.remote_for_encrypted:
        encrypted = WordLlamaEncoder.load()

    def reopen(model: Model) -> Engine:
        same = parse(model.setting).location == parse(choice.setting).location
        key = choice.api_key if same else choice.former_api_key
        former = replace(choice, setting=model.setting, dimension=model.dimension, api_key=key)
        return open_encoder(former, known, clock)

    models = records.add([chosen.card, encrypted.card])
    engines = (chosen,) if encrypted is chosen else (chosen, encrypted)
    return Encoders(chosen, encrypted, models, reopen, partial(cached, cache=cache), engines)
