"""The command ``configs``: what the package has."""

from __future__ import annotations

from pathlib import Path

from lightning_sdft.commands.config_files import config_names

__all__ = ["configs"]


def configs(about: str = "", parts: bool = False) -> dict[str, str]:
    """List the configs of the package, each with its first sentence; ``--config NAME`` takes such a name.

    A path wins over a name. Of an experiment the last part of the name is enough: ``fit --config laptop_sdft``.

    Args:
        about: Only those that have this text in their name or sentence.
        parts: Also list what only other configs include.

    Returns:
        The sentences, by name.
    """
    found = {name: first_sentence(path) for name, path in config_names().items() if parts or "parts/" not in name}
    found = {name: line for name, line in found.items() if about.lower() in f"{name} {line}".lower()}
    width = max(map(len, found), default=0)
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
