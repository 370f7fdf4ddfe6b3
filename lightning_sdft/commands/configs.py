"""The command ``configs``: what the package has."""

from __future__ import annotations

import re
from pathlib import Path

from lightning_sdft.commands.config_files import config_names
from lightning_sdft.errors import SettingError, did_you_mean

__all__ = ["configs"]


def configs(about: str = "", parts: bool = False) -> dict[str, str]:
    """List the configs of the package, each with its first sentence; ``--config NAME`` takes such a name.

    A path wins over a name. Of an experiment the last part of the name is enough: ``fit --config laptop_sdft``.

    Args:
        about: Only those that have this text in their name or sentence.
        parts: Also list what only other configs include.

    Returns:
        The sentences, by name.

    Raises:
        SettingError: If there are none about that.
    """
    named = {name: first_sentence(path) for name, path in config_names().items() if parts or "parts/" not in name}
    found = {name: line for name, line in named.items() if about.lower() in f"{name} {line}".lower()}
    if not found:
        words = {word for name in named for word in re.split(r"[/_]", name)}
        hint = did_you_mean(about, [*named, *words], "; `lightning-sdft configs` lists them all")
        raise SettingError(f"no config has {about!r} in its name or its first sentence{hint}")
    width = max(map(len, found))
    for name, line in found.items():
        print(f"{name:{width}}  {line}")
    return found


def first_sentence(file: Path) -> str:
    """The first sentence of the comment at the top of a file."""
    words: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("# "):
            break
        for word in line[2:].split():
            words.append(word)
            if word.endswith((".", ":")) and word != "Fig.":
                return " ".join(words).rstrip(":")
    return " ".join(words)
