"""Settings: a frozen dataclass per service, read once from the environment.

A field is declared with `setting(...)`; its variable is the prefix and the field's name in upper case. A secret may
also be given as a file by the same variable with `_FILE` appended, unless that is a setting of its own. No secret is
part of a `repr`. The reference page is made from the same dataclass.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mnemocore.errors import InvalidSettingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rule:
    """What a setting means and accepts."""

    doc: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    secret: bool = False


@dataclass(frozen=True, slots=True)
class Description:
    """One setting for a reference page: its variable, type, default as text, and rule."""

    variable: str
    type_name: str
    default: str
    rule: Rule


def setting(
    default: Any = dataclasses.MISSING,
    *,
    doc: str,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
    secret: bool = False,
) -> Any:
    """Declare a field: `doc` says what an operator turns it for, the others bound its values."""
    rule = Rule(doc, minimum, maximum, choices, secret)
    return dataclasses.field(default=default, repr=not secret, metadata={"rule": rule})


def load(cls: type[T], prefix: str, environ: Mapping[str, str], **overrides: Any) -> T:
    """Read `cls` from `environ`; `overrides` win over the environment.

    Raises InvalidSettingError that names the variable, its value (unless it is a secret) and what is allowed.
    """
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    names = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        rule: Rule = field.metadata["rule"]
        variable = prefix + field.name.upper()
        if field.name in overrides:
            values[field.name] = _checked(variable, overrides[field.name], rule)
            continue
        text = environ.get(variable)
        in_file = rule.secret and f"{field.name}_file" not in names
        if text is None and in_file and (file := environ.get(variable + "_FILE")):
            try:
                text = Path(file).read_text().strip()
            except OSError as error:
                raise InvalidSettingError(
                    f"{variable}_FILE: cannot read {file}: {error.strerror}", setting=f"{variable}_FILE"
                ) from error
        if text is None:
            if field.default is dataclasses.MISSING:
                raise InvalidSettingError(f"{variable} is not set: {rule.doc}", setting=variable)
            continue
        values[field.name] = _checked(variable, _parsed(variable, text, hints[field.name], rule), rule)
    return cls(**values)


def describe(cls: type[Any], prefix: str) -> Iterator[Description]:
    """The settings of `cls` in the order of declaration."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        rule: Rule = field.metadata["rule"]
        hint = _without_none(hints[field.name])
        default = "required" if field.default is dataclasses.MISSING else str(field.default)
        yield Description(prefix + field.name.upper(), hint.__name__, default or "(empty)", rule)


def _without_none(hint: Any) -> Any:
    if isinstance(hint, types.UnionType):
        return next(arg for arg in typing.get_args(hint) if arg is not type(None))
    return hint


def _parsed(variable: str, text: str, hint: Any, rule: Rule) -> Any:
    kind = _without_none(hint)
    shown = "(hidden)" if rule.secret else repr(text)
    try:
        if kind is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
        if kind is int:
            return int(text)
        if kind is float:
            return float(text)
        if kind is Path:
            return Path(text)
    except (KeyError, ValueError):
        allowed = "true or false" if kind is bool else f"a value of type {kind.__name__}"
        raise InvalidSettingError(f"{variable} = {shown}: allowed is {allowed}", setting=variable) from None
    return text


def _checked(variable: str, value: Any, rule: Rule) -> Any:
    shown = "(hidden)" if rule.secret else repr(value)
    if rule.choices and value not in rule.choices:
        raise InvalidSettingError(
            f"{variable} = {shown}: allowed is one of {', '.join(rule.choices)}", setting=variable
        )
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        low, high = rule.minimum, rule.maximum
        if (low is not None and not value >= low) or (high is not None and not value <= high):
            bounds = " and ".join(
                f"{words} {bound:g}" for words, bound in (("at least", low), ("at most", high)) if bound is not None
            )
            raise InvalidSettingError(f"{variable} = {shown}: allowed is {bounds}", setting=variable)
    return value
