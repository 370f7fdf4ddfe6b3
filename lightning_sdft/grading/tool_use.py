"""Graders of tool calls written as ``Action:`` and ``Action Input:`` lines, compared with a list of expected calls.

:class:`PublishedToolUse` grades like the scorer released with [1], so that results can be compared with published
ones. That scorer has flaws:

* An input ends at its first closing brace, so nested JSON objects cannot be read.
* Names consist of word characters only, so an expected ``[Optional]name`` cannot be matched.
* The inputs of all actions are merged: repeated actions overwrite each other's arguments, arguments may be swapped
  between actions, inputs may appear anywhere, and a missing input equals ``{}``.
* Every ``Action:`` counts, even within a sentence.
* ``true`` equals ``1``, as in Python.
* Accents composed with their letters differ from accents that follow them.

:class:`CorrectedToolUse` compares call by call. As in the released scorer, the order of the calls does not matter, any
call beyond the expected ones is wrong (including one made after an invented observation), a missing argument differs
from an empty string, and text around the calls is ignored.

References:
    [1] Shenfeld et al., *Self-Distillation Enables Continual Learning*, 2026, https://arxiv.org/abs/2601.19897
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from lightning_sdft.errors import DataError
from lightning_sdft.grading.base import Grader
from lightning_sdft.grading.references import composed
from lightning_sdft.storage.json_text import json_line

__all__ = ["CorrectedToolUse", "PublishedToolUse", "canonical_arguments"]

OPTIONAL = "[Optional]"


class _ToolUse(Grader):
    def check_reference(self, reference: Any) -> None:
        """Refuse anything but a list of calls."""
        calls = reference if isinstance(reference, list | tuple) else [None]
        given = [(each.get("Action"), each.get("Action_Input")) for each in calls if isinstance(each, Mapping)]
        if len(given) < len(calls) or not all(self.is_call(*each) for each in given):
            raise DataError(
                f'a reference like [{{"Action": name, "Action_Input": JSON text}}] is needed, not {reference!r}'
            )

    def is_call(self, name: Any, arguments: Any) -> bool:
        """Whether an expected call is one that responses can be compared with."""
        return isinstance(name, str) and isinstance(arguments, str)


class PublishedToolUse(_ToolUse):
    r"""Grades like the scorer released with the paper, including its flaws (see the module's description).

    The reference is the ``golden_answer``: a list of ``{"Action": name, "Action_Input": JSON text}``.

    Example:
        >>> expected = [{"Action": "getCat", "Action_Input": '{"size": 2}'}]
        >>> PublishedToolUse().grade('Action: getCat\nAction Input: {"size": 2}', expected)
        True
    """

    def grade(self, response: str, reference: Sequence[Mapping[str, str]]) -> bool:
        """Whether the names and the merged arguments are the expected ones."""
        names = re.findall(r"Action:\s*(\w+)", response)
        inputs = _inputs(response)
        expected_names = [action["Action"] for action in reference]
        expected_inputs = [action["Action_Input"] for action in reference]
        return Counter(names) == Counter(expected_names) and _merged(inputs) == _merged(expected_inputs)


class CorrectedToolUse(_ToolUse):
    r"""Compares call by call: the response must have each expected call with its arguments, in any order, and no other.

    A call is ``Action: name`` followed, before the next ``Action:``, by ``Action Input:`` and a JSON object. If a line
    begins with either label but the call is incomplete, the response is wrong; a label within a sentence that no input
    follows is treated as text. Numbers are compared by value (``1`` equals ``1.0``), lists in order.

    An expected action named ``[Optional]name`` may be absent, or present once with the expected arguments; the response
    may write it with or without the prefix. A prefix before a required action is wrong, because no tool has that name.

    The reference is the ``golden_answer``: a list of ``{"Action": name, "Action_Input": JSON text}``, or of objects
    instead of JSON text. Texts are compared in Unicode's canonical composition.

    Example:
        >>> expected = [{"Action": "getCat", "Action_Input": '{"size": {"cm": 20}}'}]
        >>> CorrectedToolUse().grade('Action: getCat\nAction Input: {"size": {"cm": 20}}', expected)
        True
    """

    def is_call(self, name: Any, arguments: Any) -> bool:
        """Whether an expected call has a name and arguments as text or as an object."""
        return isinstance(name, str) and isinstance(arguments, str | Mapping)

    def grade(self, response: str, reference: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the calls are all of the required ones and, beyond them, only optional ones."""
        required: Counter[tuple[str, str]] = Counter()
        optional: Counter[tuple[str, str]] = Counter()
        for action in reference:
            given = action["Action_Input"]
            arguments = canonical_arguments(json_line(given) if isinstance(given, Mapping) else given)
            if arguments is None:
                return False
            name = composed("".join(action["Action"].split()))
            calls = optional if name.startswith(OPTIONAL) else required
            calls[name.removeprefix(OPTIONAL), arguments] += 1
        found = _calls(composed(response))
        if found is None or required - found:
            return False
        further = Counter((name.removeprefix(OPTIONAL), given) for name, given in (found - required).elements())
        return not further - optional


def canonical_arguments(text: str) -> str | None:
    """The JSON object in an ``Action_Input``, written so that equal objects give equal texts.

    Args:
        text: The JSON text.

    Returns:
        The canonical text, or ``None`` if it is not one JSON object.

    Example:
        >>> canonical_arguments('{"b": 2.0, "a": {}}')
        '{"a": {}, "b": 2}'
    """
    text = text.strip()
    parsed = _read_object(text, 0)
    return parsed[0] if parsed is not None and parsed[1] == len(text) else None


_INPUT = re.compile(r"Action Input:\s*{")


def _inputs(response: str) -> Iterator[str]:
    r"""All matches of the released scorer's pattern ``Action Input:\s*({.*?})``, in linear, not quadratic time."""
    position = 0
    while (label := _INPUT.search(response, position)) and (end := response.find("}", label.end())) != -1:
        yield response[label.end() - 1 : end + 1]
        position = end + 1


def _merged(texts: Iterable[str]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for text in texts:
        try:
            merged.update(json.loads(text))
        except (TypeError, ValueError, RecursionError):  # the released scorer skips what it cannot read or merge
            continue
    return merged


_LABEL = re.compile(r"\bAction(?P<input> Input)?:\s*")
_NAME = re.compile(r"(\[Optional\]\s*)?\w+([.-]\w+)*")


def _calls(response: str) -> Counter[tuple[str, str]] | None:
    """The calls of a response as (name, canonical arguments), or ``None`` if one is malformed."""
    calls: Counter[tuple[str, str]] = Counter()
    name: str | None = None  # name of the action whose input has not been found yet
    begins_line = False
    position = 0
    while label := _LABEL.search(response, position):
        position = label.end()
        line_start = response.rfind("\n", 0, label.start()) + 1
        if label["input"] and name is not None:
            parsed = _read_object(response, position)
            if parsed is None:
                return None
            arguments, position = parsed
            calls[name, arguments] += 1
            name = None
            continue
        if name is not None and begins_line:
            return None
        begins_line = not response[line_start : label.start()].strip()
        if label["input"]:
            if begins_line:
                return None
        else:
            found = _NAME.match(response, position)
            name = "".join(found[0].split()) if found else ""
    return None if name is not None and begins_line else calls


def _number(text: str) -> int | float:
    value = float(text)
    return int(value) if value.is_integer() else value


_DECODER = json.JSONDecoder(parse_float=_number)


def _read_object(text: str, start: int) -> tuple[str, int] | None:
    """The JSON object that begins at ``start``, in canonical form, and the position where it ends."""
    try:
        value, end = _DECODER.raw_decode(text, start)
        if not isinstance(value, dict):
            return None
        return composed(json.dumps(value, sort_keys=True, ensure_ascii=False)), end
    except (ValueError, RecursionError):  # a model may write numbers or nesting that Python refuses to parse
        return None
