"""Keeps secrets out of what is printed, logged and saved: values of settings named like keys, and texts like keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from jsonargparse import Namespace

__all__ = ["MASK", "is_like_a_key", "is_name_of_secret", "masked", "masked_text"]

MASK = "***"

NAME = (
    r"\w*(?:api_?key|access_?key|secret|passw(?:or)?d|credential|private_?key)\w*"
    r"|(?:\w*(?:auth|access|api|bearer|hf|hub|id|refresh|session|user)_?)?token"
)
SECRET_NAME = re.compile(NAME, re.IGNORECASE)
"""Names of settings whose values are secrets; not those of tokens of text, such as ``pad_token`` and ``max_tokens``."""

VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
"""The usual name of an environment variable. Such a name is no secret, although it stands where a key might stand."""

KNOWN_KEY = re.compile(
    r"(?<![A-Za-z0-9])(?:sk-[\w-]{8,}|(?:hf|ghp|gho|ghu|ghs|ghr|gsk|r8|sk|pk|rk)_[A-Za-z0-9]{16,}|github_pat_\w{16,}"
    r"|AIza[\w-]{20,}|AKIA[A-Z0-9]{12,}|(?:xai|nvapi|pplx|glpat|xox[abprs])-[\w-]{12,})"
)
"""Keys of services that give them a beginning of their own."""

PASSWORD = re.compile(r"(?<=://)[^\s/?#@'\"]+@")
"""User and password in an address."""

QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
ASSIGNED = re.compile(
    rf"(?P<name>(?<![\w])(?P<quote>['\"]?)(?:{NAME})(?P=quote)(?:\s*[:=]\s*))(?P<value>{QUOTED}|[^\s,(){{}}\[\]]+)",
    re.IGNORECASE,
)
TYPED = re.compile(rf"(?P<name>--(?:\w+\.)*(?:{NAME})\s+)(?P<value>{QUOTED}|[^\s-]\S*)", re.IGNORECASE)

LONG = 20
"""Number of characters from which a mixture of letters and digits is taken for a key."""


def is_name_of_secret(name: str) -> bool:
    """Whether a setting of this name, or of this dotted path, holds a secret."""
    return SECRET_NAME.fullmatch(name.rpartition(".")[2]) is not None


def is_like_a_key(text: str) -> bool:
    """Whether a text looks like a key rather than like a name: by its beginning, or as a long mixture.

    Example:
        >>> is_like_a_key("hf_AbCdEfGhIjKlMnOpQrSt"), is_like_a_key("OPENAI_API_KEY_OF_GROUP_2")
        (True, False)
    """
    if KNOWN_KEY.search(text):
        return True
    kinds = [any(map(kind, text)) for kind in (str.islower, str.isupper, str.isdigit)]
    return len(text) >= LONG and kinds[2] and (all(kinds) or "_" not in text)


def masked_text(text: str) -> str:
    """A text in which secrets are masked: in addresses, by their beginnings, and behind the names of settings.

    Example:
        >>> masked_text("Namespace(api_key='abc', api_key_variable='MY_KEY', url='http://me:abc@host/')")
        "Namespace(api_key=***, api_key_variable='MY_KEY', url='http://***@host/')"
    """
    for pattern in (ASSIGNED, TYPED):
        text = pattern.sub(_without_value, text)
    return _without_keys(text)


def masked(value: Any, name: str = "") -> Any:
    """A copy of nested settings in which secrets are masked.

    Args:
        value: The settings: a namespace, a mapping, a list, or one value.
        name: Name of the setting.
    """
    if isinstance(value, Namespace):
        parts = {key: masked(each, key) for key, each in vars(value).items()}
        return Namespace(**parts)  # type: ignore[no-untyped-call]
    if isinstance(value, Mapping):
        return {key: masked(each, str(key)) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([masked(each, name) for each in value]) if type(value) in (list, tuple) else value
    if not isinstance(value, str):
        return value
    return MASK if value and is_name_of_secret(name) and not _is_variable(value) else _without_keys(value)


def _without_keys(text: str) -> str:
    return KNOWN_KEY.sub(MASK, PASSWORD.sub(f"{MASK}@", text))


def _without_value(found: re.Match[str]) -> str:
    value = found["value"].strip("'\"")
    return found[0] if value in ("", "None", "null") or _is_variable(value) else found["name"] + MASK


def _is_variable(text: str) -> bool:
    return VARIABLE.fullmatch(text) is not None and not is_like_a_key(text)
