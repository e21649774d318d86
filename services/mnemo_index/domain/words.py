"""Words: how a text becomes the terms that are matched, and the stop words that are not.

A term is a case-folded, compatibility-normalised (NFKC), stemmed run of letters and digits. A name that joins letters
and digits by signs is a term besides those of its parts. Letters of scripts that are written without spaces (Chinese,
Japanese, Thai ...) are words one by one and terms in pairs; pictographs are both one by one. Accents do not count.
"""

from __future__ import annotations

import re
import threading
import unicodedata
from itertools import pairwise
from typing import TYPE_CHECKING, Final, Protocol

import snowballstemmer

if TYPE_CHECKING:
    from collections.abc import Mapping

_STOP_WORDS: Final = """
    a about above across after afterwards again against all almost along already also although always am among an and
    another any anybody anyone anything anywhere are around as at away be became because become becomes been before
    being below between both but by came can cannot could did do does doing done down during each either else ever
    every everybody everyone everything everywhere few for from further get gets getting give given go goes going gone
    got had has have having he her here hers herself him himself his how however i if in into is it its itself just
    kind let like made make makes many may maybe me might mine more most much must my myself neither never no nobody
    none nor not nothing now nowhere of off often on once one only or other others ought our ours ourselves out over
    own per perhaps please quite rather really same shall she should since so some somebody someone something
    sometimes somewhere soon still such take taken than that the their theirs them themselves then there therefore
    these they thing things this those though through thus to together too toward towards under until up upon us very
    was we were what whatever when whenever where wherever whether which while who whoever whom whose why will with
    within without would yes yet you your yours yourself yourselves
"""
_NUMBER_WORDS: Final = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion first
    second third half once twice monday tuesday wednesday thursday friday saturday sunday january february march april
    june july august september october november december
"""

STOP_WORDS: Final = frozenset(_STOP_WORDS.split())
"""English words that carry no meaning of their own, question words included."""

NEGATIONS: Final = frozenset(
    ("not", "no", "never", "neither", "nor", "none", "nobody", "nothing", "nowhere", "without")
)
"""Words that turn a statement into its opposite."""

NUMBER_WORDS: Final = frozenset(_NUMBER_WORDS.split())
"""Words that name a number, a day or a month: two texts that differ in them say different things."""

DEFAULT_LANGUAGE: Final = "english"
"""What stems are of unless something else is said."""

NO_LANGUAGE: Final = "none"
"""Stands for a language without stems and stop words."""

LANGUAGES: Final = (*snowballstemmer.algorithms(), NO_LANGUAGE)
"""What stems can be of."""

LONGEST_TERM: Final = 64
"""Characters of a term; what is longer (keys, hashes, encoded data) is cut."""

_CACHE_LIMIT: Final = 200_000
_AUXILIARIES: Final = {"can't": "can not", "cannot": "can not", "won't": "will not", "shan't": "shall not"}
_CONTRACTED_NEGATION = re.compile(r"\b(?:can't|cannot|won't|shan't)\b|n't\b")
_CONTRACTION = re.compile(r"'(?:s|re|ve|ll|d|m)\b")
_DIGIT = re.compile(r"[0-9]")
_LETTER = re.compile(r"[^\W_]")
_ALPHABETIC = re.compile(r"[^\W\d_]")
_JOINED = re.compile(r"(?<![^\W_])[^\W_]++(?:[-\u2010-\u2013._/:+][^\W_]++)+")  # possessive: linear in long runs
_BOUNDARY = re.compile(r"(?<=[^\W\d_])[-\u2010-\u2013_/](?=\d)|(?<=\d)[-\u2010-\u2013_/](?=[^\W\d_])")
_REMARK = re.compile(r"\[[^\[\]]*\]\s*$")
_QUESTION_MARKS = "?\uff1f\u061f\u037e"
_LONGEST_END: Final = 2048
_ACCENTS = re.compile("[\u0300-\u0305\u0307-\u036f]|(?<!\u0438)\u0306")  # not that of the Cyrillic short i, a letter
_SPACELESS_LETTERS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\U00020000-\U0003ffff"
)
_PICTOGRAPHS = "\u2600-\u27bf\u2b50\u2b55\U0001f1e6-\U0001f1ff\U0001f300-\U0001f3fa\U0001f400-\U0001faff"
_SINGLE = _SPACELESS_LETTERS + _PICTOGRAPHS
_SPACELESS = re.compile(f"[{_SPACELESS_LETTERS}]")
_MARKS = "\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0900-\u0963\u0981-\u0983\u09bc-\u09e3\u0a01-\u0dff"
_ASCII_TERM = re.compile(r"[0-9]+(?:[.,:][0-9]+)+(?![0-9a-z])|[0-9a-z]+")
_TERM = re.compile(rf"[0-9]+(?:[.,:][0-9]+)+(?![^\W_])|[{_SINGLE}]|(?:(?![{_SINGLE}])[^\W_{_SINGLE}]|[{_MARKS}])+")


class Stemmer(Protocol):
    """Reduces a word to its stem."""

    def stemWord(self, word: str) -> str:
        """The stem of a lower-case `word`."""
        ...


def words(text: str) -> list[str]:
    """The words of `text` in order, stop words included, not stemmed; a contracted negation counts as `not`."""
    folded = unicodedata.normalize("NFKC", text.replace("\u2019", "'")).casefold()
    if "'" in folded or "cannot" in folded:
        folded = _CONTRACTION.sub("", _CONTRACTED_NEGATION.sub(_spelled_out, folded))
    if folded.isascii():
        found = _ASCII_TERM.findall(folded)
    else:
        plain = unicodedata.normalize("NFKC", _ACCENTS.sub("", unicodedata.normalize("NFKD", folded)))
        found = _TERM.findall(plain)
    return [_canonical(word) if len(word) > LONGEST_TERM or "," in word else word for word in found]


def names(text: str) -> list[str]:
    """The names in `text` that join letters to digits by signs, in order, each as one term: `GPT-4`, `v2.3.1`, `I-95`.

    The sign between a letter and a digit does not count, so `GPT-4` is what `GPT4` is.
    """
    if not _DIGIT.search(text):
        return []
    folded = _ACCENTS.sub("", unicodedata.normalize("NFKD", text).casefold())
    found = (joined for joined in _JOINED.findall(folded) if _DIGIT.search(joined) and _ALPHABETIC.search(joined))
    return [_BOUNDARY.sub("", joined)[:LONGEST_TERM] for joined in found]


def guard(found: list[str]) -> str:
    """The numbers, days, months and negations among the words `found`, in a form that is equal for equal ones.

    Two texts with different guards do not say the same, however similar they are.
    """
    numbers = NUMBER_WORDS.intersection(found)
    if _DIGIT.search(" ".join(found)):
        numbers = numbers.union(word for word in found if _DIGIT.search(word))
    negations = 0 if NEGATIONS.isdisjoint(found) else sum(word in NEGATIONS for word in found)
    return " ".join([*sorted(numbers), *["not"] * negations])


def asks(text: str) -> bool:
    """Whether `text` ends with a question. A remark in square brackets at its end does not count, nor does what has no
    letters or digits.
    """
    end = _REMARK.sub("", text[-_LONGEST_END:])
    mark = max(end.rfind(each) for each in _QUESTION_MARKS)
    return mark >= 0 and not _LETTER.search(end, mark)


class Stems:
    """Stems of the words of one language, remembered. Safe for use by many threads.

    `language` is one of LANGUAGES. Stop words are left out in English; in others their frequency makes them count
    little.
    """

    def __init__(self, language: str = DEFAULT_LANGUAGE) -> None:
        self.language = language
        self.stop_words = STOP_WORDS if language == "english" else frozenset[str]()
        self._stemmer: Stemmer | None = None if language == NO_LANGUAGE else snowballstemmer.stemmer(language)
        self._only_ascii = language == "english"
        self._lock = threading.Lock()
        self._known: dict[str, str] = {}

    def terms(self, found: list[str]) -> list[str]:
        """The stems of the words `found` that are no stop words, in order.

        What is written without spaces between words is one letter a word in `found`: each two that follow one another
        are a term, one that is alone is one.
        """
        known: Mapping[str, str] = self._known
        stop_words = self.stop_words
        if not "".join(found).isascii():
            found = _paired(found)
        return [known.get(word) or self._learn(word) for word in found if word not in stop_words]

    def _learn(self, word: str) -> str:
        if self._stemmer is None or not word.isalpha() or (self._only_ascii and not word.isascii()):
            return word
        with self._lock:
            stem = self._stemmer.stemWord(word)
            if len(self._known) >= _CACHE_LIMIT:
                self._known = {}
            self._known[word] = stem
            return stem


def stands_alone(term: str) -> bool:
    """Whether `term` is one letter of a script that is written without spaces between words."""
    return len(term) == 1 and _SPACELESS.fullmatch(term) is not None


def _paired(found: list[str]) -> list[str]:
    """The words with the letters of scripts without spaces in pairs."""
    paired: list[str] = []
    run = ""
    for word in [*found, ""]:
        if stands_alone(word):
            run += word
            continue
        if run:
            paired += [run] if len(run) == 1 else map("".join, pairwise(run))
            run = ""
        paired.append(word)
    paired.pop()
    return paired


def _spelled_out(match: re.Match[str]) -> str:
    return _AUXILIARIES.get(match[0], " not")


def _canonical(word: str) -> str:
    return word.replace(",", "")[:LONGEST_TERM]
