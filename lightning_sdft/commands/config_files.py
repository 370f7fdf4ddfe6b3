"""Config files: the one with the defaults of every run, and files that include other files."""

from __future__ import annotations

from pathlib import Path

import yaml

from lightning_sdft.errors import SettingError

__all__ = ["base_config", "included_files"]

PACKAGE = Path(__file__).parents[1]


def base_config(package: Path = PACKAGE) -> Path:
    """The file whose settings are the defaults of every run.

    Args:
        package: Folder of the package. In a wheel ``configs`` is inside of it, in a clone beside it.

    Raises:
        SettingError: If it is in neither place.
    """
    places = [package / "configs" / "base.yaml", package.parent / "configs" / "base.yaml"]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise SettingError(f"the base config is missing: it is neither {places[0]} nor {places[1]}; install again")
    return found


def included_files(file: Path, above: tuple[Path, ...] = ()) -> list[Path]:
    """The files that a config file includes, in the order in which they are read before it.

    A file includes those in its list ``config``, whose paths are relative to its folder. Each of them comes after the
    files that it includes itself.

    Args:
        file: The config file. If it cannot be read, the list is empty, and whoever reads the file reports the error.
        above: The files that led to this one by including it.

    Raises:
        SettingError: If an included file does not exist, if files include each other, or if ``config`` is no list.
    """
    if file.resolve() in above:
        raise SettingError(
            f"{file} includes itself, by way of {', '.join(map(str, above))}; take one of these out of the list config"
        )
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return []
    names = content.get("config", []) if isinstance(content, dict) else []
    if not isinstance(names, list):
        raise SettingError(f"{file}: config={names} is not a list; write it as config: [{names}]")
    found: list[Path] = []
    for name in names:
        part = file.parent / str(name)
        if not part.is_file():
            raise SettingError(f"{file} includes {part}, which does not exist; paths are relative to the file's folder")
        found += [*included_files(part, (*above, file.resolve())), part]
    return found
