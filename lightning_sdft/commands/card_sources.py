"""The names and licences of what a model was trained from, without paths of this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import try_to_load_from_cache

from lightning_sdft import zoo

__all__ = ["BaseModel", "base_model", "data_names", "hub_ids", "metadata"]

FENCE = "---\n"

SOURCES = ("train", "articles", "source")
"""The settings of data modules that say what is trained on."""


@dataclass(frozen=True)
class BaseModel:
    """The model that training started from.

    Args:
        name: What it is called: its id on the hub, its name in the zoo, or that of its folder or file.
        on_hub: Whether the name is an id on the hub.
        licence: The fields of its card that are about its licence.
    """

    name: str
    on_hub: bool
    licence: Mapping[str, str]


def base_model(source: str) -> BaseModel:
    """What is known here about a model that has just been loaded; nothing is downloaded.

    Args:
        source: The model as its setting names it.
    """
    path = zoo.folder(source) if source.startswith(zoo.PREFIX) else Path(source)
    if path.exists():
        name = source if source.startswith(zoo.PREFIX) else path.resolve().name
        card = (path if path.is_dir() else path.parent) / "README.md"
        return BaseModel(name, False, _licence(card, None))
    cached = try_to_load_from_cache(source, "README.md")
    return BaseModel(source, True, _licence(Path(cached), source) if isinstance(cached, str) else {})


def data_names(settings: Mapping[str, Any]) -> list[str]:
    """The names of what was trained on: files without their folders, ids of the hub, names of the zoo."""
    whole = {source: source.startswith(zoo.PREFIX) or _hub_id(source) for source in _sources(settings)}
    return [source if known else Path(source).name for source, known in whole.items()]


def hub_ids(settings: Mapping[str, Any]) -> list[str]:
    """The ids of the hub among what was trained on."""
    return [name for source in _sources(settings) if (name := _hub_id(source))]


def metadata(card: str) -> dict[str, Any]:
    """The YAML at the beginning of a model card; empty if there is none that can be read."""
    if not card.startswith(FENCE) or FENCE not in card[len(FENCE) :]:
        return {}
    try:
        content = yaml.safe_load(card[len(FENCE) :].partition(FENCE)[0])
    except yaml.YAMLError:
        return {}
    return content if isinstance(content, dict) else {}


def _sources(settings: Mapping[str, Any]) -> Iterator[str]:
    return (value for name in SOURCES if isinstance(value := settings.get(name), str))


def _hub_id(source: str) -> str | None:
    """The id of a data set that was loaded from the hub on this machine; a relative path can look like an id.

    Args:
        source: A source as :func:`lightning_sdft.data.tables.read_rows` takes it.
    """
    name = source.partition("@")[0].partition(":")[0]
    if name.count("/") != 1 or Path(name).exists():
        return None
    import datasets  # late, as in data/tables.py

    owner, _, rest = name.partition("/")
    cached = Path(datasets.config.HF_DATASETS_CACHE, f"{owner}___{datasets.naming.camelcase_to_snakecase(rest)}")
    return name if cached.is_dir() else None


def _licence(card: Path, repository: str | None) -> dict[str, str]:
    """The fields about the licence in a card; a link within a repository of the hub becomes an address."""
    if not card.is_file():
        return {}
    content = metadata(card.read_text(encoding="utf-8", errors="replace"))
    names = ("license", "license_name", "license_link")
    fields = {name: content[name] for name in names if isinstance(content.get(name), str)}
    link = fields.get("license_link", "https://")
    if not link.startswith("https://"):
        del fields["license_link"]
        if repository is not None:
            fields["license_link"] = f"https://huggingface.co/{repository}/blob/main/{link}"
    return fields
