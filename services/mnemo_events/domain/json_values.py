"""JSON, read strictly and written in one way."""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final

_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")


def parsed(text: bytes) -> Any:
    """JSON as Python values. Raises ValueError also for what some readers take and others do not.

    That is: an encoding other than UTF-8, NaN and infinities, also those that a number is too large for, a name twice
    in an object, half a surrogate pair.
    """
    try:
        written = text.decode("utf-8")
        value = json.loads(written, parse_float=_finite, parse_constant=_no_constant, object_pairs_hook=_unique)
        if _SURROGATE.search(written):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except UnicodeEncodeError:
        raise ValueError("it has half of a surrogate pair") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def canonical(value: Any) -> bytes:
    """A JSON value with sorted keys and no blanks."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def plain(value: Any) -> Any:
    """A JSON value with one spelling for equal numbers: 1.0 is 1."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return value


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("it has a number that is too large")
    return number


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has a name twice")
    return found
