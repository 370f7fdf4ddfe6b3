"""Reading rows of JSON; a row that cannot be read does not keep the others from being read."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from json import JSONDecodeError
from typing import Any

from lightning_sdft.errors import DataError

__all__ = ["BadRow", "Row", "json_lines", "json_list", "shortened"]

Row = dict[str, Any]

STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},]', re.DOTALL)


class BadRow(Row):
    """Takes the place of a row that cannot be read.

    Args:
        problem: What is wrong, beginning with the file and the place in it.
    """

    def __init__(self, problem: str) -> None:
        super().__init__()
        self.problem = problem


def json_list(name: str, text: str) -> list[Row]:
    """The rows of a JSON list.

    Args:
        name: The file, for messages.
        text: Its content.

    Raises:
        DataError: If the text is no JSON.
    """
    try:
        rows = json.loads(text)
    except JSONDecodeError as error:
        raise DataError(f"{name}, line {error.lineno}: broken JSON ({error.msg}); correct the line") from error
    except (ValueError, RecursionError):  # one of the rows is JSON, but beyond what can be read
        return [_row(each, f"{name}, row {number}") for number, each in enumerate(_elements(text), start=1)]
    return [_object(row, f"{name}, row {number}") for number, row in enumerate(rows, start=1)]


def json_lines(name: str, text: str) -> list[Row]:
    """The rows of a text with a JSON object on each line; blank lines are passed over. The arguments are as above."""
    # not splitlines, which also cuts at separators that JSON allows within strings
    lines = enumerate(text.split("\n"), start=1)
    return [_row(line, f"{name}, line {number}") for number, line in lines if line.strip()]


def shortened(value: object) -> str:
    """A value as Python writes it, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _row(text: str, where: str) -> Row:
    try:
        return _object(json.loads(text), where)
    except JSONDecodeError as error:
        return BadRow(
            f"{where}: broken JSON ({error.msg}, column {error.colno}); correct the line. The file must hold a "
            "list of objects, or one object per line"
        )
    except RecursionError:
        return BadRow(f"{where}: lists or objects are nested too deeply to be read; correct the row")
    except ValueError:
        digits = sys.get_int_max_str_digits()
        return BadRow(f"{where}: a number has more than the {digits} digits that can be read; write it as a string")


def _object(row: object, where: str) -> Row:
    if not isinstance(row, dict):
        return BadRow(f"{where}: {type(row).__name__} ({shortened(row)}) instead of an object; correct the row")
    return row


def _elements(text: str) -> Iterator[str]:
    """The texts of the elements of a JSON list, without reading them."""
    depth, begin = 0, 0
    for mark in STRUCTURE.finditer(text):
        if mark[0] in "[{":
            depth += 1
            begin = mark.end() if depth == 1 else begin
        elif mark[0] in "]}":
            depth -= 1
        if (mark[0] == "," and depth == 1) or (mark[0] in "]}" and depth == 0):
            yield text[begin : mark.start()]
            begin = mark.end()
