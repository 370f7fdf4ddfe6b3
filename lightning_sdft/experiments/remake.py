"""Makes the tables of an experiment again, without training."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from lightning_sdft.errors import SettingError
from lightning_sdft.experiments.archive import unpack
from lightning_sdft.experiments.report.written import write_report

__all__ = ["remake"]


def remake(archive: str, out: str) -> None:
    """Make the tables, the evidence and the pictures of an experiment again from its archive, without training.

    ``lightning-sdft compare --archive FILE`` and ``continual --archive FILE`` pack an experiment. The archive also has
    the settings as ``config.yaml``, which the same command takes, the config of each run, the verdict on each question,
    and versions, commit and hardware in ``experiment.json``. With the same version of this package, tables and evidence
    are the same to the last byte.

    Args:
        archive: The archive, or the folder of an experiment.
        out: Folder to write to; it must not have an experiment of its own.

    Raises:
        SettingError: If there is no such archive, or it has no results, or ``out`` is the folder of an experiment.
    """
    if (Path(out) / "runs").exists():
        raise SettingError(
            f"{out} is the folder of an experiment, whose tables would be overwritten; give another --out"
        )
    Path(out).mkdir(parents=True, exist_ok=True)
    if Path(archive).is_dir():
        files = write_report(Path(archive), Path(out))
    else:
        with TemporaryDirectory() as folder:
            unpack(Path(archive), Path(folder))
            files = write_report(Path(folder), Path(out))
    print((Path(out) / files[0]).read_text(encoding="utf-8"))
    print(f"written to {out}: {', '.join(files)}")
