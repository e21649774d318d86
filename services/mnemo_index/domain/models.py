"""Models: what stands behind the vectors, how a setting names an encoder, and which encoder made which vectors."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from mnemo_index.domain.encoder import AbsentEncoder
from mnemocore.errors import InvalidSettingError, MnemoError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mnemo_index.domain.encoder import Encoder, Engine

VARIABLE: Final = "MNEMO_INDEX_ENCODER"
"""The setting that names the encoder, as errors call it."""
WORDLLAMA: Final = "wordllama"
SENTENCE_TRANSFORMERS: Final = "sentence-transformers"
OPENAI: Final = "openai"
ALLOWED: Final = "wordllama, sentence-transformers:DIRECTORY or openai:https://HOST/v1#MODEL"


@dataclass(frozen=True, slots=True)
class Model:
    """A model whose vectors may be held.

    `name` stands with every vector. `checksum` is the SHA-256, in hex, of the weights and the tokenizer; of a remote
    model, whose weights nobody sees, that of endpoint, id and dimension. `setting` opens it again; it holds no key.
    """

    name: str
    id: str
    version: str
    dimension: int
    checksum: str
    setting: str
    remote: bool = False


@dataclass(frozen=True, slots=True)
class EncoderChoice:
    """Which encoder an operator wants, and how a remote one is called.

    `dimension` 0: the endpoint is asked. `timeout` is in seconds and for one attempt, `batch` the most texts in a
    request. With `remote_for_encrypted` texts of encrypted spaces may be sent to a remote encoder. `former_api_key` is
    for the endpoint that made older vectors; an endpoint never gets the key of another one.
    """

    setting: str = WORDLLAMA
    api_key: str = field(default="", repr=False)
    former_api_key: str = field(default="", repr=False)
    dimension: int = 0
    timeout: float = 10.0
    batch: int = 32
    remote_for_encrypted: bool = False


@dataclass(frozen=True, slots=True)
class EncoderName:
    """The parts of a setting: which engine, where (a directory or URL, empty for the default), and which model."""

    engine: str
    location: str = ""
    model: str = ""


def parse(setting: str) -> EncoderName:
    """The parts of the setting `encoder`. Raises InvalidSettingError that says what is allowed."""
    engine, _, rest = setting.partition(":")
    if setting == WORDLLAMA:
        return EncoderName(WORDLLAMA)
    if engine == SENTENCE_TRANSFORMERS and rest:
        return EncoderName(engine, rest)
    if engine == OPENAI:
        return _remote(setting, rest)
    raise InvalidSettingError(f"{VARIABLE} = {setting!r}: allowed is {ALLOWED}", setting=VARIABLE)


def _remote(setting: str, rest: str) -> EncoderName:
    url, _, model = rest.partition("#")
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query and parts.port != 0
    except ValueError:
        raise InvalidSettingError(f"{VARIABLE}: the URL is not one; allowed is " + ALLOWED, setting=VARIABLE) from None
    if parts.username is not None or parts.password is not None:
        text = f"{VARIABLE}: the URL holds a user name or password; allowed is a key in MNEMO_INDEX_ENCODER_API_KEY"
        raise InvalidSettingError(text, setting=VARIABLE)
    if not (sound and model):
        raise InvalidSettingError(f"{VARIABLE} = {setting!r}: allowed is {ALLOWED}", setting=VARIABLE)
    return EncoderName(OPENAI, url.rstrip("/"), model)


class Encoders:
    """The encoders of an index: the one that was chosen, that of encrypted spaces, and those of older vectors.

    `known` are the models that vectors were ever made with; `reopen` opens one of them, and raises a MnemoError if it
    cannot. Every encoder is wrapped by `wrap`; `close` closes the `engines` and what was reopened. Safe for use by many
    threads.
    """

    def __init__(
        self,
        chosen: Encoder,
        encrypted: Encoder | None = None,
        known: Iterable[Model] = (),
        reopen: Callable[[Model], Engine] | None = None,
        wrap: Callable[[Encoder], Encoder] = lambda encoder: encoder,
        engines: Iterable[Engine] = (),
    ) -> None:
        self.chosen = wrap(chosen)
        self.encrypted = self.chosen if encrypted is None else wrap(encrypted)
        self._wrap = wrap
        self._engines = list(engines)
        self._known = {model.name: model for model in known}
        self._reopen = reopen
        self._lock = threading.Lock()
        self._opened: dict[str, Encoder] = {each.model: each for each in (self.encrypted, self.chosen)}

    def models(self) -> list[Model]:
        """The models that are known, in the order of their names."""
        return sorted(self._known.values(), key=lambda model: model.name)

    def knows(self, model: str) -> bool:
        """Whether vectors of a model can be used, if need be without its encoder."""
        return model in self._known or model in self._opened

    def remote(self, model: str) -> bool:
        """Whether texts leave this machine to be encoded by a model."""
        known = self._known.get(model)
        return known is not None and known.remote

    def openable(self, model: str) -> bool:
        """Whether there is an encoder for a model; it is opened if it is not. Blocks."""
        known = self._known.get(model)
        return self.available(model) or not isinstance(self.of(model, known.dimension if known else 0), AbsentEncoder)

    def available(self, model: str) -> bool:
        """Whether the encoder of a model is open."""
        opened = self._opened.get(model)
        return opened is not None and not isinstance(opened, AbsentEncoder)

    def of(self, model: str, dimension: int) -> Encoder:
        """The encoder of vectors that `model` made; an AbsentEncoder if it cannot be opened. Blocks while it opens."""
        with self._lock:
            encoder = self._opened.get(model)
            if encoder is None:
                encoder = self._opened[model] = self._open(model, dimension)
            return encoder

    def close(self) -> None:
        """Let go of what the encoders hold open."""
        for encoder in self._engines:
            encoder.close()

    def _open(self, model: str, dimension: int) -> Encoder:
        known = self._known.get(model)
        if known is None or self._reopen is None:
            return AbsentEncoder(model, dimension, "nothing is known of how it is opened")
        try:
            engine = self._reopen(known)
        except MnemoError as error:
            return AbsentEncoder(model, dimension, str(error))
        if engine.model != model:
            engine.close()
            return AbsentEncoder(model, dimension, f"{known.setting} is {engine.model} now")
        self._engines.append(engine)
        return self._wrap(engine)
