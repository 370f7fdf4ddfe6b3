"""Images in the prompts of rows: parts of a turn's content, or a column of paths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lightning_sdft.data.json_files import Row, shortened
from lightning_sdft.errors import DataError
from lightning_sdft.policy.images import check_image
from lightning_sdft.records import Content, Message

__all__ = ["check_image_column", "content_parts", "with_images", "with_text"]


def content_parts(parts: Sequence[Any], where: str) -> Content:
    """Read the parts of a turn's content; where all are texts, they are one text.

    Args:
        parts: Texts, ``{"type": "text", "text": ...}``, and images, ``{"type": "image", "image": path}``; without a
            path, the image is the next one of the column of images.
        where: File, row and turn, for error messages.

    Raises:
        DataError: If a part is neither.
    """
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            continue
        if kind != "image" or not isinstance(part.get("image", ""), str):
            raise DataError(
                f'{where}: a part of the content is {shortened(part)}; write {{"type": "text", "text": ...}} or '
                '{"type": "image", "image": PATH}'
            )
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    names = {"text": ("type", "text"), "image": ("type", "image")}
    return [{name: part[name] for name in names[part["type"]] if name in part} for part in parts]


def check_image_column(rows: Sequence[Row], column: str, source: str) -> None:
    """Refuse a source in which no row has the column of images.

    Args:
        rows: Its rows.
        column: The column.
        source: Where the rows are from, for the error.

    Raises:
        DataError: If there is none.
    """
    if not any(column in row for row in rows):
        raise DataError(
            f"{source}: no row has the column {column!r} of images; correct data.image_column, or leave it out"
        )


def with_images(prompt: Sequence[Message], paths: object, folder: Path, where: str) -> list[Message]:
    """Put the images of a row into its prompt, and check that each can be read.

    Where parts of the prompt are images without a path, they get the paths in their order; otherwise the images stand
    before the text of the first user turn.

    Args:
        prompt: The prompt.
        paths: The paths in the column of images: a list of them, a single one, or ``None``.
        folder: The folder that paths are relative to.
        where: File and row, for error messages.

    Raises:
        DataError: If the paths are not as many as the images that lack one, or an image cannot be read.
    """
    given = [] if paths is None else paths if isinstance(paths, list) else [paths]
    if wrong := [each for each in given if not isinstance(each, str)]:
        raise DataError(f"{where}: an image is given as {shortened(wrong[0])}; give the path of its file")
    messages = list(prompt)
    open_places = sum("image" not in part for part in _images(messages))
    if given and not open_places:
        first = next((index for index, each in enumerate(messages) if each["role"] == "user"), 0)
        content = [{"type": "image"} for _ in given] + _parts(messages[first]["content"])
        messages[first] = {**messages[first], "content": content}
        open_places = len(given)
    if open_places != len(given):
        raise DataError(
            f"{where}: {open_places} images of the prompt have no path, and the row gives {len(given)}; give a path "
            "for each"
        )
    waiting = iter(given)
    for index, message in enumerate(messages):
        if isinstance(message["content"], list):
            located = [_located(part, waiting, folder, where) for part in message["content"]]
            messages[index] = {**message, "content": located}
    return messages


def with_text(content: Content, text: str) -> Content:
    """What a turn says, followed by a text."""
    return content + text if isinstance(content, str) else [*content, {"type": "text", "text": text}]


def _parts(content: Content) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _images(messages: Sequence[Message]) -> Iterator[dict[str, Any]]:
    for message in messages:
        yield from (part for part in _parts(message["content"]) if part["type"] == "image")


def _located(part: dict[str, Any], waiting: Iterator[str], folder: Path, where: str) -> dict[str, Any]:
    """A part whose image has the path of a file that can be read."""
    if part["type"] != "image":
        return part
    path = str(folder / Path(part.get("image") or next(waiting)).expanduser())
    try:
        check_image(path)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    return {"type": "image", "image": path}
