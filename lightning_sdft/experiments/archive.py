"""Packs an experiment into one file that can be cited."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile, ZipInfo

import yaml

from lightning_sdft.commands.next_steps import after_experiment
from lightning_sdft.errors import SettingError
from lightning_sdft.experiments.report.written import write_report
from lightning_sdft.storage.atomic import whole_file
from lightning_sdft.storage.masking import masked

__all__ = ["check_archive", "finish", "unpack"]

WHOLE = ("experiment.json", "endpoint.json", "results.json", "*.md", "evidence.json", "*.png", "*.svg")
"""Files of an experiment that are packed."""

OF_RUNS = ("run.json", "outcome.json", "details.json", "tensorboard/config.yaml")
"""Files of each run that are packed: no weights, no logs."""

CONFIG = "config.yaml"
"""The settings of the experiment, as its command takes them."""


def check_archive(archive: str | None) -> None:
    """Refuse a name that no archive can have, before anything is trained.

    Raises:
        SettingError: If it does not end in ``.zip``.
    """
    if archive is not None and not archive.endswith(".zip"):
        raise SettingError(f"archive={archive!r} does not end in .zip; give such a name")


def finish(out: Path, archive: str | None) -> None:
    """Write tables, evidence and pictures of an experiment whose results are there, say so, and pack it.

    Args:
        out: Folder of the experiment.
        archive: File to pack it into, if it is to be packed.
    """
    files = write_report(out, out)
    print((out / files[0]).read_text(encoding="utf-8"))
    print(f"written to {out}: results.json, {', '.join(files)}")
    if archive is not None:
        _pack(out, Path(archive))
        print(f"packed into {archive}")
    after_experiment(out)


def _pack(out: Path, archive: Path) -> None:
    """Pack an experiment; the same files give the same archive."""
    settings = json.loads((out / "experiment.json").read_text(encoding="utf-8"))["arguments"]
    with whole_file(archive) as unfinished, ZipFile(unfinished, "w", ZIP_DEFLATED) as packed:
        packed.writestr(_entry(CONFIG), yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
        for path in _packed(out):
            content = path.read_bytes()
            if path.name == "run.json":
                content = json.dumps(masked(json.loads(content)), indent=1).encode()
            packed.writestr(_entry(path.relative_to(out).as_posix()), content)


def _packed(out: Path) -> Iterator[Path]:
    for pattern in (*WHOLE, *(f"runs/**/{name}" for name in OF_RUNS)):
        yield from sorted(out.glob(pattern))


def _entry(name: str) -> ZipInfo:
    entry = ZipInfo(name)  # of 1980, whenever it is packed
    entry.compress_type = ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    return entry


def unpack(archive: Path, folder: Path) -> None:
    """Unpack what tables are made from, and nothing else.

    Args:
        archive: The archive.
        folder: Folder to write to.

    Raises:
        SettingError: If it cannot be read.
    """
    try:
        with ZipFile(archive) as packed:
            for entry in packed.infolist():
                path = PurePosixPath(entry.filename)
                if path.suffix == ".json" and not path.is_absolute() and ".." not in path.parts:
                    target = folder / path
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(packed.read(entry))
    except (OSError, BadZipFile) as error:
        raise SettingError(
            f"archive={str(archive)!r} cannot be read ({error}); give what --archive has written"
        ) from error
