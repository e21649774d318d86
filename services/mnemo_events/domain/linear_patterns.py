"""Regular expressions that are matched in a number of steps that is linear in the text, whatever the expression.

Those of clients cannot be given to an engine that tries one way after the other: `(a|a)*b` keeps it busy for ever. Here
an expression becomes a nondeterministic automaton whose states are followed all at once (Thompson, 1968), and the sets
of states that were seen are kept, so that most characters take one look-up.

The syntax is that of ECMA-262 without what is not regular or depends on the place: no backreferences, no look-around,
no word boundaries, no named groups. `\\d` and `\\w` are ASCII.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from mnemo_events.domain.effort import Effort

MAX_STATES: Final = 2000
"""States of an automaton; counted repetitions are written out."""
MAX_DEPTH: Final = 50
"""Groups inside one another."""
KEPT: Final = 10_000
"""States in the steps of automata that are kept, besides those that are in proportion to their size."""
_QUANTIFIER: Final = re.compile(r"\*|\+|\?|\{(\d{1,5})(?:(,)(\d{1,5})?)?\}")
_CONTROLS: Final = {"t": "\t", "n": "\n", "v": "\v", "f": "\f", "r": "\r", "0": "\0"}
_HEX: Final = re.compile(r"x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|u\{([0-9a-fA-F]{1,6})\}")
_PROPERTY: Final = re.compile(r"([pP])\{([A-Z][a-z]?)\}")
_IDENTITY: Final = frozenset("^$\\.*+?()[]{}|/-")
_SPACES: Final = frozenset("\t\n\v\f\r \u00a0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff") | frozenset(
    map(chr, range(0x2000, 0x200B))
)
_LINE_ENDS: Final = frozenset("\n\r\u2028\u2029")


@dataclass(slots=True)
class _Node:
    """A state: with a `test` a character leads on, with an `assertion` its truth does, else nothing is needed."""

    test: Callable[[str], bool] | None = None
    assertion: str = ""
    following: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of an expression: `kind` is test, assertion, sequence, choice or repeat."""

    kind: str
    parts: tuple[_Part, ...] = ()
    test: Callable[[str], bool] | None = None
    assertion: str = ""
    least: int = 0
    most: int | None = None


class Memory:
    """How many states in steps may be kept by the automata that share it."""

    def __init__(self) -> None:
        self.left = KEPT


class LinearPattern:
    """A compiled expression. Raises ValueError for one that is malformed, not supported or too large, and says why.

    Expressions that share a `memory` keep only so much of their steps together.
    """

    def __init__(self, source: str, memory: Memory | None = None) -> None:
        self._memory = memory or Memory()
        self._nodes: list[_Node] = [_Node()]
        accepting = 0
        self._first = self._written(_Parser(source).whole(), accepting)
        self._from_start = self._closure({self._first}, "^")
        self._from_middle = self._closure({self._first}, "")
        self._steps: dict[tuple[frozenset[int], str], frozenset[int]] = {}
        self._memory.left += 5 * self.states

    @property
    def states(self) -> int:
        """How many states it has."""
        return len(self._nodes)

    def found_in(self, text: str, effort: Effort) -> bool:
        """Whether some part of the text matches. Raises EffortExhaustedError."""
        states = self._from_start
        for character in text:
            if 0 in states:
                return True
            following = self._steps.get((states, character))
            if following is None:
                effort.spend(len(states))
                following = self._step(states, character)
            states = following
            effort.spend()
        return 0 in states or 0 in self._closure(states, "$" if text else "^$")

    def _step(self, states: frozenset[int], character: str) -> frozenset[int]:
        reached: set[int] = set()
        for state in states:
            node = self._nodes[state]
            if node.test is not None and node.test(character):
                reached.update(node.following)
        following = self._closure(reached, "") | self._from_middle
        if self._memory.left > 0:
            self._steps[states, character] = following
            self._memory.left -= len(states) + len(following)
        return following

    def _closure(self, states: set[int] | frozenset[int], true: str) -> frozenset[int]:
        """What is reached without a character where the assertions in `true` hold."""
        reached, pending = set(states), list(states)
        while pending:
            node = self._nodes[pending.pop()]
            if node.test is None and (not node.assertion or node.assertion in true):
                fresh = [state for state in node.following if state not in reached]
                reached.update(fresh)
                pending.extend(fresh)
        return frozenset(reached)

    def _written(self, part: _Part, then: int) -> int:
        """The state in which a part begins, if `then` is the one after it."""
        if part.kind == "test":
            return self._add(_Node(test=part.test, following=(then,)))
        if part.kind == "assertion":
            return self._add(_Node(assertion=part.assertion, following=(then,)))
        if part.kind == "sequence":
            for each in reversed(part.parts):
                then = self._written(each, then)
            return then
        if part.kind == "choice":
            return self._add(_Node(following=tuple(self._written(each, then) for each in part.parts)))
        return self._repeated(part, then)

    def _repeated(self, part: _Part, then: int) -> int:
        (inner,) = part.parts
        if part.most is None:
            loop = self._add(_Node())
            self._nodes[loop].following = (self._written(inner, loop), then)
            then = loop
        else:
            end = then
            for _ in range(part.most - part.least):
                then = self._add(_Node(following=(self._written(inner, then), end)))
        for _ in range(part.least):
            before = then
            then = self._written(inner, then)
            if then == before:
                break
        return then

    def _add(self, node: _Node) -> int:
        if len(self._nodes) >= MAX_STATES:
            raise ValueError(f"needs more than {MAX_STATES} states")
        self._nodes.append(node)
        return len(self._nodes) - 1


class _Parser:
    """Reads an expression from left to right."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._at = 0
        self._depth = 0

    def whole(self) -> _Part:
        part = self._choice()
        if self._at < len(self._source):
            raise self._wrong("has a ')' without its '('")
        return part

    def _choice(self) -> _Part:
        branches = [self._sequence()]
        while self._take("|"):
            branches.append(self._sequence())
        return branches[0] if len(branches) == 1 else _Part("choice", tuple(branches))

    def _sequence(self) -> _Part:
        parts: list[_Part] = []
        while self._at < len(self._source) and self._source[self._at] not in "|)":
            parts.append(self._quantified(self._atom()))
        return _Part("sequence", tuple(parts))

    def _quantified(self, part: _Part) -> _Part:
        found = _QUANTIFIER.match(self._source, self._at)
        if found is None:
            return part
        if part.kind == "assertion":
            raise self._wrong("repeats '^' or '$'")
        self._at = found.end()
        self._take("?")
        if _QUANTIFIER.match(self._source, self._at):
            raise self._wrong("repeats a repetition")
        least, most = _bounds(found)
        if most is not None and most < least:
            raise self._wrong("repeats more often than it allows")
        return _Part("repeat", (part,), least=least, most=most)

    def _atom(self) -> _Part:
        character = self._next()
        if character == "(":
            return self._group()
        if character == "[":
            return _Part("test", test=self._class())
        if character == "\\":
            return _Part("test", test=self._escape())
        if character in "^$":
            return _Part("assertion", assertion=character)
        if character == ".":
            return _Part("test", test=lambda each: each not in _LINE_ENDS)
        if character in "*+?":
            raise self._wrong(f"has a {character!r} with nothing to repeat")
        return _Part("test", test=lambda each: each == character)

    def _group(self) -> _Part:
        if self._take("?") and not self._take(":"):
            raise self._wrong("has a group of a kind that is not supported; allowed are '(...)' and '(?:...)'")
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._wrong(f"has more than {MAX_DEPTH} groups inside one another")
        part = self._choice()
        self._depth -= 1
        if not self._take(")"):
            raise self._wrong("has a '(' without its ')'")
        return part

    def _escape(self) -> Callable[[str], bool]:
        """The test of what stands after a backslash."""
        if found := self._matched(_PROPERTY):
            negated, category = found[1] == "P", found[2]
            return lambda each: unicodedata.category(each).startswith(category) is not negated
        letter = self._source[self._at : self._at + 1]
        if letter and letter in "dDwWsS":
            self._at += 1
            return _shorthand(letter)
        literal = self._literal_escape()
        return lambda each: each == literal

    def _literal_escape(self) -> str:
        if found := self._matched(_HEX):
            code = int(found[1] or found[2] or found[3], 16)
            if code > 0x10FFFF:
                raise self._wrong("names a character beyond U+10FFFF")
            return chr(code)
        letter = self._next()
        if letter in _CONTROLS:
            return _CONTROLS[letter]
        if letter in _IDENTITY:
            return letter
        raise self._wrong(f"has the escape '\\{letter}', which is not supported")

    def _class(self) -> Callable[[str], bool]:
        """The test of a class; its '[' was read."""
        negated = self._take("^")
        tests: list[Callable[[str], bool]] = []
        singles: set[str] = set()
        while not self._take("]"):
            first = self._member(tests)
            if first is None:
                continue
            if self._source.startswith("-", self._at) and not self._source.startswith("-]", self._at):
                self._at += 1
                last = self._member(tests)
                if last is None or last < first:
                    raise self._wrong("has a range in a class that does not grow")
                tests.append(lambda each, low=first, high=last: low <= each <= high)  # type: ignore[misc]
            else:
                singles.add(first)
        found, ranges = frozenset(singles), tuple(tests)
        return lambda each: (each in found or any(test(each) for test in ranges)) is not negated

    def _member(self, tests: list[Callable[[str], bool]]) -> str | None:
        """A character of a class; None for an escape that stands for many, which is added to the tests."""
        character = self._next()
        if character != "\\":
            return character
        if self._matched(re.compile("b")):
            return "\b"
        if self._source[self._at : self._at + 1] in tuple("dDwWsSpP"):
            tests.append(self._escape())
            return None
        return self._literal_escape()

    def _matched(self, expression: re.Pattern[str]) -> re.Match[str] | None:
        if found := expression.match(self._source, self._at):
            self._at = found.end()
        return found

    def _next(self) -> str:
        if self._at == len(self._source):
            raise self._wrong("ends too early")
        self._at += 1
        return self._source[self._at - 1]

    def _take(self, character: str) -> bool:
        if not self._source.startswith(character, self._at):
            return False
        self._at += 1
        return True

    def _wrong(self, text: str) -> ValueError:
        return ValueError(f"{text} (at character {self._at})")


def _bounds(found: re.Match[str]) -> tuple[int, int | None]:
    if found[0] in ("*", "+", "?"):
        return int(found[0] == "+"), 1 if found[0] == "?" else None
    least = int(found[1])
    return least, least if found[2] is None else int(found[3]) if found[3] else None


def _shorthand(letter: str) -> Callable[[str], bool]:
    negated = letter.isupper()
    if letter in "dD":
        return lambda each: ("0" <= each <= "9") is not negated
    if letter in "sS":
        return lambda each: (each in _SPACES) is not negated
    return lambda each: (each == "_" or (each.isascii() and each.isalnum())) is not negated
