"""Config files: the one with the defaults of every run, those of the package by name, and files that include others."""

from __future__ import annotations

from pathlib import Path

import yaml

from lightning_sdft.errors import SettingError, did_you_mean
from lightning_sdft.storage.neighbours import neighbour_hint

__all__ = ["base_config", "check_yaml", "config_file", "config_names", "included_files"]

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


def config_names() -> dict[str, Path]:
    """The configs of the package, by their paths below ``configs`` without suffix: ``experiment/laptop_sdft``, say."""
    folder = base_config().parent
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.yaml"))}


def config_file(name: str, folder: Path = Path()) -> Path:
    """The config file that a path or a name stands for.

    A path wins over a name. The name of a config of the package is its path below ``configs``, such as
    ``method/sdft``. The last part is enough for an experiment (``laptop_sdft``), and where only one config has it.

    Args:
        name: Path or name.
        folder: What a path is relative to.

    Raises:
        SettingError: If there is no such file or config, or several configs have that name.
    """
    path = folder / name
    if path.is_file():
        return path
    named = config_names()
    # A file of one's own that is missing, such as base.yaml, is not taken for the package's.
    wanted = name.removeprefix("configs/").removesuffix(".yaml") if name.startswith("configs/") else name
    for whole in (wanted, f"experiment/{wanted}"):
        if whole in named:
            return named[whole]
    ends: dict[str, list[str]] = {}
    for each in named:
        if "parts/" not in each:
            ends.setdefault(each.rsplit("/", 1)[-1], []).append(each)
    found = ends.get(wanted, [])
    if len(found) == 1:
        return named[found[0]]
    if found:
        raise SettingError(f"{name} is the name of several configs; give one of {', '.join(found)}")
    if path.is_dir():
        raise SettingError(f"{path} is a folder; name a config file in it")
    beside = neighbour_hint(path, lambda each: each.suffix in (".yaml", ".yml"))
    hint = beside or did_you_mean(wanted, [*named, *ends])
    raise SettingError(
        f"{path} does not exist, nor is it the name of a config of this package"
        f"{hint or '; `lightning-sdft configs` lists them'}"
    )


def check_yaml(file: Path) -> None:
    """Refuse a file that is no YAML; jsonargparse would not name it.

    Raises:
        SettingError: If it is none, with the place where reading ended, or if it holds no settings.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        raise SettingError(f"{file}{where}: {error.problem}; this is no YAML") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingError(f"{file} cannot be read as YAML: {error}; save it as UTF-8") from error
    trainer = content.get("trainer") if isinstance(content, dict) else None
    if not isinstance(trainer, dict | type(None)):  # which jsonargparse would pass over
        raise SettingError(f"{file}: trainer={trainer} must be settings, such as {{max_steps: 3}}")
    if not isinstance(content, dict):
        raise SettingError(
            f"{file} is empty or holds something other than settings; write them as `trainer: {{max_steps: 3}}`, say"
        )


def included_files(file: Path, above: tuple[Path, ...] = ()) -> list[Path]:
    """The files that a config file includes, in the order in which they are read before it.

    A file includes those in its list ``config``: paths relative to its folder, or names of configs of the package. Each
    of them comes after the files that it includes itself.

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
        try:
            part = config_file(str(name), file.parent)
        except SettingError as error:
            raise SettingError(f"{file} includes {name}, but {error}") from error
        found += [*included_files(part, (*above, file.resolve())), part]
    return found
