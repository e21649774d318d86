from __future__ import annotations

import re

import pytest

from mnemo_events.domain.filter import Filter, check_types
from mnemocore.errors import InvalidFieldError


def test_no_types_means_every_type() -> None:
    assert Filter().type_expression is None


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("memory.created", ["memory.created"], ["memory.created.x", "memoryxcreated", "memory.create"]),
        ("memory.*", ["memory.created", "memory.a_1"], ["memory.created.x", "memory", "memories.created"]),
        ("*.created", ["memory.created"], ["a.b.created"]),
        ("memory.**", ["memory.created", "memory.created.x.y"], ["memory", "memoryx.created"]),
        ("*.*", ["a.b"], ["a.b.c"]),
        ("**", ["a.b", "a.b.c.d.e"], []),
    ],
)
def test_patterns(pattern: str, matching: list[str], others: list[str]) -> None:
    expression = Filter(check_types([pattern])).type_expression
    assert expression is not None
    assert all(re.search(expression, name) for name in matching)
    assert not any(re.search(expression, name) for name in others)


def test_any_of_several_patterns() -> None:
    expression = Filter(("a.b", "c.*")).type_expression
    assert expression is not None
    assert [bool(re.search(expression, name)) for name in ("a.b", "c.d", "a.d")] == [True, True, False]


def test_malformed_patterns_are_all_named() -> None:
    broken = ["", ".", "a.", "**.a", "a.**.b", "A.b", "a.b*", "a b", "a.b\n"]
    with pytest.raises(InvalidFieldError) as caught:
        check_types(["good.*", *broken])
    assert [violation.field for violation in caught.value.violations] == [
        f"filter.types[{index}]" for index in range(1, len(broken) + 1)
    ]
    assert "'*' stands for one segment" in str(caught.value)
