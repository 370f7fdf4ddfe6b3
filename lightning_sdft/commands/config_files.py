"""Config files: the base that every run stands on, and files that stand on other files."""

from __future__ import annotations

from pathlib import Path

import yaml

from lightning_sdft.errors import SettingError

__all__ = ["base_config", "stands_on"]

PACKAGE = Path(__file__).parent


def base_config(package: Path = PACKAGE) -> Path:
    """The file whose settings are the defaults of every run.

    Args:
        package: Folder of the package. In a wheel ``configs`` lies in it, in a clone beside it.

    Raises:
        SettingError: If it is in neither place.
    """
    places = [package / "configs" / "base.yaml", package.parent / "configs" / "base.yaml"]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise SettingError(f"the base config is missing, at {places[0]} as well as at {places[1]}; install again")
    return found


def stands_on(file: Path, above: tuple[Path, ...] = ()) -> list[Path]:
    """The files that a config file stands on, in the order in which they are read before it.

    They are those that its own list ``config`` names, relative to its folder, each behind those that it stands on.

    Args:
        file: The config file. One that cannot be read stands on nothing, and whoever reads it says why.
        above: The files through which it was reached.

    Raises:
        SettingError: If one of them is not there, if files stand on each other, or if ``config`` is no list.
    """
    if file.resolve() in above:
        raise SettingError(f"{file} stands on itself, by way of {', '.join(map(str, above))}")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return []
    names = content.get("config", []) if isinstance(content, dict) else []
    if not isinstance(names, list):
        raise SettingError(f"{file}: config={names} is no list; write it as config: [{names}]")
    found: list[Path] = []
    for name in names:
        part = file.parent / str(name)
        if not part.is_file():
            raise SettingError(f"{file} stands on {part}, which is not there; paths are relative to the file's folder")
        found += [*stands_on(part, (*above, file.resolve())), part]
    return found
