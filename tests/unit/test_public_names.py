"""The public names. Others build on them: a name may be added here, and is taken away only with a new major release."""

from __future__ import annotations

import re

import pytest

import mnemocore
from mnemocore import errors, hypervector

FROZEN = {
    "Connection",
    "Event",
    "EventInput",
    "InvalidEvent",
    "Media",
    "Memory",
    "MemoryFilter",
    "MemoryInput",
    "MnemoError",
    "Provenance",
    "RecallHit",
    "Reject",
    "Retry",
    "Session",
    "Space",
    "SpacePolicy",
    "Task",
    "WorkingMemory",
    "__version__",
    "connect",
    "verify_signature",
}
FROZEN_HYPERVECTOR = {
    "BYTES",
    "DIMENSION",
    "PROJECTION_VERSION",
    "SKETCH_BITS",
    "Cleaned",
    "Codebook",
    "Concepts",
    "Hypervector",
    "Hypervectors",
    "Match",
    "SignProjection",
    "bind",
    "bundle",
    "carried_over",
    "concept",
    "moved_along",
    "nearest",
    "nearest_by_sketch",
    "permute",
    "random_hypervector",
    "random_hypervectors",
    "similarity",
    "sketch",
}


def test_the_names_of_the_package_are_frozen() -> None:
    assert set(mnemocore.__all__) == FROZEN


def test_the_names_of_the_algebra_are_frozen() -> None:
    assert set(hypervector.__all__) == FROZEN_HYPERVECTOR


@pytest.mark.parametrize("name", sorted(FROZEN))
def test_every_name_of_the_package_leads_somewhere(name: str) -> None:
    assert getattr(mnemocore, name) is not None
    assert name in dir(mnemocore)


def test_an_unknown_name_is_refused_by_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'recall_everything'"):
        mnemocore.recall_everything  # noqa: B018


def test_every_error_class_is_drawn_in_the_tree_at_the_top_of_the_module() -> None:
    drawn = re.findall(r"^ +(?:│   )*(?:├── |└── )?(\w+Error)\b", errors.__doc__ or "", re.MULTILINE)
    classes = [
        cls.__name__ for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.MnemoError)
    ]

    assert sorted(drawn) == sorted(classes)
