"""A remote encoder: an endpoint that speaks `POST /v1/embeddings` as OpenAI defined it, and many servers do.

Texts go out in batches. An attempt has a time limit; what may succeed a moment later (429, 5xx, no answer) is tried
again by the rules of the library, with a budget; after three failed calls in a row the endpoint is left alone for a
minute. An answer is checked before it is believed: as many vectors as texts, each of the dimension, finite. Neither key
nor texts stand in an error or a log line.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import httpx2
import numpy as np
from tenacity import Retrying, retry_if_exception

from mnemo_index.domain.models import OPENAI, VARIABLE, Model
from mnemo_index.storage.token_table import MAX_CHARACTERS, unit_rows
from mnemocore.client.breaker import BreakerRule, BreakerState, CircuitBreaker, Outcome
from mnemocore.client.retries import MAX_ATTEMPTS, RetryBudget, pause_after, worth_retrying
from mnemocore.clock import SystemClock
from mnemocore.errors import InvalidSettingError, PeerUnavailableError
from mnemocore.telemetry import counter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from tenacity import RetryCallState

    from mnemo_index.domain.models import EncoderChoice, EncoderName
    from mnemocore.clock import Clock

RULE: Final = BreakerRule(threshold=3, reset=60.0)
"""When the endpoint is left alone."""

QUERY_SECONDS: Final = 2.0
"""A question waits for its vector at most so long; then it is answered by words."""

LONGEST_PAUSE: Final = 10.0
"""Seconds: an endpoint that asks to be left alone for longer is not waited for within a call."""

FEWEST_CHARACTERS: Final = 1024
"""A text that the endpoint refuses is tried again by its beginning, halved until it is shorter than this."""

_BYTES_A_NUMBER: Final = 32
_BYTES_AROUND: Final = 1 << 20
_REFUSED: Final = (400, 413, 422)
_LATER: Final = (408, 409, 425, 429)
_log = logging.getLogger(__name__)


class TextsRefusedError(Exception):
    """The endpoint answered and does not take these texts: it will not take them later either."""


class _FinalError(PeerUnavailableError):
    """The endpoint answered, and would answer the same a moment later."""


class OpenAIEncoder:
    """Encodes by an endpoint. Safe for use by many threads; blocks.

    `url` is that of the API, to which `/embeddings` is added. Everything that goes wrong is an UnavailableError.
    """

    def __init__(
        self,
        name: EncoderName,
        choice: EncoderChoice,
        dimension: int,
        clock: Clock | None = None,
        rule: BreakerRule = RULE,
    ) -> None:
        self._url = f"{name.location}/embeddings"
        self._model_id = name.model
        self._dimension = dimension
        self._timeout = choice.timeout
        self._batch = choice.batch
        headers = {"Authorization": f"Bearer {choice.api_key}"} if choice.api_key else {}
        self._http = httpx2.Client(headers=headers, timeout=choice.timeout)
        self._lock = threading.Lock()
        self._breaker = CircuitBreaker(self._url, clock or SystemClock(), rule, self._report)
        self._budget = RetryBudget()

    @classmethod
    def open(
        cls,
        name: EncoderName,
        choice: EncoderChoice,
        known: int = 0,
        clock: Clock | None = None,
        rule: BreakerRule = RULE,
    ) -> OpenAIEncoder:
        """The encoder of an endpoint, which is asked for one vector.

        `known` is the dimension that its vectors had, 0 if it was never asked. Raises InvalidSettingError if the
        endpoint makes vectors of another dimension than the choice says, or if it does not answer and no dimension is
        known; otherwise an endpoint that does not answer now may do so later.
        """
        encoder = cls(name, choice, choice.dimension or known, clock, rule)
        try:
            found = len(encoder._ask(["dimension"], time.monotonic() + choice.timeout, any_dimension=True)[0])
        except (PeerUnavailableError, TextsRefusedError) as error:
            if not encoder._dimension:
                encoder.close()
                raise InvalidSettingError(
                    f"{VARIABLE} = {choice.setting!r}: {error}; set MNEMO_INDEX_ENCODER_DIMENSION to start without it",
                    setting=VARIABLE,
                ) from None
            _log.warning("%s; until it answers memories are found by their words", error)
            return encoder
        if encoder._dimension not in (0, found):
            encoder.close()
            raise InvalidSettingError(
                f"{VARIABLE} = {choice.setting!r}: its vectors have {found} numbers, not {encoder._dimension}; "
                "allowed is another model or the right MNEMO_INDEX_ENCODER_DIMENSION",
                setting=VARIABLE,
            )
        encoder._dimension = found
        return encoder

    def close(self) -> None:
        """End the connections."""
        self._http.close()

    @property
    def card(self) -> Model:
        """What is known of the model: its id, its endpoint and its dimension."""
        endpoint = self._url.removesuffix("/embeddings")
        checksum = hashlib.sha256(f"{endpoint}\0{self._model_id}\0{self._dimension}".encode()).hexdigest()
        id, version = f"{OPENAI}/{self._model_id}", checksum[:12]
        setting = f"{OPENAI}:{endpoint}#{self._model_id}"
        return Model(f"{id}@{version}", id, version, self._dimension, checksum, setting, remote=True)

    @property
    def model(self) -> str:
        """Id of the model and the first 12 digits of the checksum."""
        return self.card.name

    @property
    def dimension(self) -> int:
        """Numbers a vector."""
        return self._dimension

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One row of length 1 a text; zeros for an empty text, and for one the endpoint takes in no length."""
        vectors = np.zeros((len(texts), self._dimension), dtype=np.float32)
        told = [place for place, text in enumerate(texts) if text.strip()]
        for start in range(0, len(told), self._batch):
            places = told[start : start + self._batch]
            vectors[places] = self._encode([texts[place][:MAX_CHARACTERS] for place in places])
        return vectors

    def encode_weighted(self, words: Sequence[str], weights: Sequence[float]) -> NDArray[np.float32]:
        """The vector of the words that have a weight, as one text: an endpoint cannot weigh."""
        return self.encode_query(" ".join(word for word, weight in zip(words, weights, strict=True) if weight > 0))

    def encode_query(self, query: str) -> NDArray[np.float32]:
        """The vector of a question, within QUERY_SECONDS."""
        if not query.strip():
            return np.zeros(self._dimension, dtype=np.float32)
        expiry = time.monotonic() + min(QUERY_SECONDS, self._timeout)
        try:
            (vector,) = self._ask([query[:MAX_CHARACTERS]], expiry)
        except TextsRefusedError as error:
            raise PeerUnavailableError(str(error), target=self._url) from None
        return np.asarray(vector, dtype=np.float32)

    def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        """The vectors of texts; those of a batch that is refused one half at a time, then by their beginnings."""
        expiry = time.monotonic() + MAX_ATTEMPTS * self._timeout + LONGEST_PAUSE
        try:
            return self._ask(texts, expiry)
        except TextsRefusedError as error:
            if len(texts) > 1:
                half = len(texts) // 2
                return np.concatenate((self._encode(texts[:half]), self._encode(texts[half:])))
            (text,) = texts
            if len(text) >= 2 * FEWEST_CHARACTERS:
                return self._encode([text[: len(text) // 2]])
            return self._refused(error)

    def _refused(self, error: TextsRefusedError) -> NDArray[np.float32]:
        """Zeros for a text that is refused while another one is taken: then it is the text, not the request."""
        try:
            self._ask(["dimension"], time.monotonic() + self._timeout)
        except TextsRefusedError:
            raise PeerUnavailableError(str(error), target=self._url) from None
        _log.warning("%s; a memory is found by its words only", error)
        return np.zeros((1, self._dimension), dtype=np.float32)

    def _ask(self, texts: list[str], expiry: float, *, any_dimension: bool = False) -> NDArray[np.float32]:
        """The vectors of one batch, by `expiry` (seconds of `time.monotonic()`), tried again if that is worth it."""

        def pause(state: RetryCallState) -> float:
            return pause_after(state.outcome.exception() if state.outcome else None, state.attempt_number)

        def enough(state: RetryCallState) -> bool:
            if state.attempt_number >= MAX_ATTEMPTS or time.monotonic() + state.upcoming_sleep >= expiry:
                return True
            with self._lock:
                return not self._budget.withdraw()

        with self._lock:
            self._budget.deposit()
        again = Retrying(wait=pause, stop=enough, retry=retry_if_exception(_may_succeed), reraise=True)
        return again(self._attempt, texts, expiry, any_dimension)

    def _attempt(self, texts: list[str], expiry: float, any_dimension: bool) -> NDArray[np.float32]:
        """One attempt, of which the circuit breaker is told what came of it."""
        with self._lock:
            permit = self._breaker.admit_at_once()
        outcome = Outcome.FAILURE
        try:
            vectors = self._answer(texts, expiry, 0 if any_dimension else self._dimension)
            outcome = Outcome.SUCCESS
            return vectors
        except TextsRefusedError:
            outcome = Outcome.SUCCESS  # it answered
            raise
        finally:
            with self._lock:
                permit.settle(outcome)

    def _answer(self, texts: list[str], expiry: float, dimension: int) -> NDArray[np.float32]:
        """The vectors in the answer to one request, checked. Raises TextsRefusedError or PeerUnavailableError."""
        until = min(expiry, time.monotonic() + self._timeout)
        request = {"model": self._model_id, "input": texts, "encoding_format": "float"}
        most = _BYTES_AROUND + len(texts) * (dimension or 1 << 15) * _BYTES_A_NUMBER
        try:
            limit = max(0.001, until - time.monotonic())
            with self._http.stream("POST", self._url, json=request, timeout=limit) as response:
                if response.status_code != httpx2.codes.OK:
                    raise self._failure(response)
                body = self._read(response, until, most)
        except httpx2.TimeoutException:
            raise self._unavailable(f"did not answer within {self._timeout:g} s") from None
        except httpx2.HTTPError as error:
            raise self._unavailable(f"cannot be reached ({type(error).__name__})") from None
        return self._vectors(body, len(texts), dimension)

    def _read(self, response: httpx2.Response, until: float, most: int) -> bytes:
        body = bytearray()
        for part in response.iter_bytes():
            body += part
            if len(body) > most:
                raise self._unavailable(f"answered with more than {most} bytes", final=True)
            if time.monotonic() > until:
                raise self._unavailable(f"did not answer within {self._timeout:g} s")
        return bytes(body)

    def _failure(self, response: httpx2.Response) -> Exception:
        status = response.status_code
        if status in _REFUSED:
            return TextsRefusedError(f"encoder {self._url} refuses the texts (HTTP {status})")
        later = status in _LATER or status >= 500
        return self._unavailable(f"answered HTTP {status}", _wait(response) if later else None, final=not later)

    def _vectors(self, body: bytes, count: int, dimension: int) -> NDArray[np.float32]:
        try:
            data: list[Any] = json.loads(body)["data"]
            with np.errstate(over="ignore"):  # what is too great becomes infinite and is refused below
                rows = {int(item["index"]): np.asarray(item["embedding"], dtype=np.float32) for item in data}
        except (ValueError, LookupError, TypeError, AttributeError):
            raise self._unavailable("answered with what is no list of embeddings", final=True) from None
        if sorted(rows) != list(range(count)):
            raise self._unavailable(f"answered {count} texts with {len(rows)} embeddings", final=True)
        for row in rows.values():
            if row.ndim != 1 or not row.size or row.size != (dimension or rows[0].size):
                shape = "x".join(map(str, row.shape))
                raise self._unavailable(f"answered with {shape} numbers a vector, not {dimension}", final=True)
            if not np.isfinite(row).all() or not row.any():
                raise self._unavailable("answered with numbers that are no direction", final=True)
        return unit_rows(np.stack([rows[place] for place in range(count)]))

    def _unavailable(self, what: str, wait: float | None = None, *, final: bool = False) -> PeerUnavailableError:
        """The error for an answer; one that is `final` comes again if the same call is made a moment later."""
        kind = _FinalError if final else PeerUnavailableError
        return kind(f"encoder {self._url} {what}", target=self._url, retry_after=wait)

    def _report(self, state: BreakerState) -> None:
        counter("mnemo.client.breaker.changes").add(1, {"target": self._url, "state": state.value})
        _log.warning("encoder %s: calls are %s", self._url, "suspended" if state is BreakerState.OPEN else state.value)


def _may_succeed(error: BaseException) -> bool:
    return worth_retrying(error) and not isinstance(error, _FinalError)


def _wait(response: httpx2.Response) -> float | None:
    """The seconds that the endpoint asks to wait; None if it says nothing that can be obeyed."""
    try:
        seconds = float(response.headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds < 86_400 else None
