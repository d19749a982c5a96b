"""Pydantic's errors in the words of who wrote the file."""

from __future__ import annotations

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from mutransfer.shown import quoted

_SECTION = "must be a section (key: value lines)"
_MESSAGES = {
    "missing": "is required",
    "json_invalid": "is not JSON: {error}",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "model_type": _SECTION,
    "model_attributes_type": _SECTION,
    "dict_type": _SECTION,
    "dataclass_type": _SECTION,
    "tuple_type": "must be a list",
    "finite_number": "must be finite",
    "greater_than": "must be > {gt:g}",
    "greater_than_equal": "must be >= {ge:g}",
    "less_than": "must be < {lt:.15g}",
    "less_than_equal": "must be <= {le:.15g}",
    "literal_error": "must be {expected}",
    "union_tag_not_found": "needs a 'kind'",
    "too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "may have letters, digits, dots, dashes and underscores only",
}


def message_of(error: ErrorDetails) -> str:
    """What is wrong with a value, without where it stands: `must be > 0, but got -1`."""
    template = _MESSAGES.get(error["type"])
    if template is None:
        return error["msg"].removeprefix("Value error, ")
    message = template.format(**error.get("ctx", {}))
    shown = error["type"] not in ("missing", "json_invalid", "too_short", "string_too_long") and not isinstance(
        error["input"], dict | list | tuple
    )
    return message + (f", but got {quoted(error['input'])}" if shown else "")


def first_problem(error: ValidationError) -> str:
    """The first of its errors in a JSON file, as `field: message`."""
    found = error.errors()[0]
    field, message = ".".join(map(str, found["loc"])), message_of(found).replace(_SECTION, "must be an object")
    return f"{field}: {message}" if field else message
