"""An archive holds all that tables are made from, and no more."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml

from lightning_sdft.errors import SettingError
from lightning_sdft.experiments.archive import check_archive, finish, remake
from lightning_sdft.experiments.compare import compare
from lightning_sdft.experiments.report.experiment import Experiment
from tests.experiments.small_experiment import write_experiment

TABLES = ("table5.md", "evidence.md", "evidence.json")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An experiment and its archive."""
    out = tmp_path_factory.mktemp("packed")
    write_experiment(out)
    (out / "runs/double/sft/rate-0.0001-seed-0/log.txt").write_text("/home/me")
    finish(out, str(out / "experiment.zip"))
    return out, out / "experiment.zip"


def test_tables_from_the_archive_alone_are_the_same_to_the_last_byte(packed: tuple[Path, Path], tmp_path: Path) -> None:
    out, archive = packed
    alone = tmp_path / "elsewhere.zip"
    alone.write_bytes(archive.read_bytes())
    remake(str(alone), str(tmp_path / "again"))
    assert {name: (tmp_path / "again" / name).read_bytes() for name in TABLES} == {
        name: (out / name).read_bytes() for name in TABLES
    }
    assert not (tmp_path / "again" / "runs").exists()


def test_tables_are_made_from_a_folder_too(packed: tuple[Path, Path], tmp_path: Path) -> None:
    remake(str(packed[0]), str(tmp_path / "again"))
    assert (tmp_path / "again/table5.md").read_bytes() == (packed[0] / "table5.md").read_bytes()


def test_archive_has_settings_results_and_verdicts_and_no_secret(packed: tuple[Path, Path]) -> None:
    with ZipFile(packed[1]) as archive:
        names = set(archive.namelist())
        content = {name: archive.read(name).decode() for name in names if not name.endswith((".png", ".svg"))}
    assert {"config.yaml", "experiment.json", "results.json", "endpoint.json", *TABLES} <= names
    assert "runs/double/sft/rate-0.0001-seed-0/details.json" in names
    assert not any("log.txt" in name or name.endswith(".ckpt") for name in names)
    assert not any("secret" in text for text in content.values())
    settings = yaml.safe_load(content["config.yaml"])
    assert settings["domains"] == ["double", "swap-ends"]
    assert settings["methods"]["SFT + again"]["after"] == "SFT"
    assert settings["endpoint"]["method"] == "joint"
    (where,) = json.loads(content["experiment.json"])["provenance"]
    assert where == {"versions": {"torch": "1"}, "commit": None, "runs": 49}


def test_same_experiment_gives_the_same_archive(packed: tuple[Path, Path], tmp_path: Path) -> None:
    finish(packed[0], str(tmp_path / "twice.zip"))
    assert (tmp_path / "twice.zip").read_bytes() == packed[1].read_bytes()


def test_settings_of_the_archive_are_those_of_the_command(packed: tuple[Path, Path]) -> None:
    experiment, _ = Experiment.read(packed[0])
    parameters = compare.__annotations__
    assert experiment.arguments.keys() <= parameters.keys()
    assert {"domains", "methods", "seeds", "endpoint", "ceilings"} <= experiment.arguments.keys()


def test_nothing_is_written_outside_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive of somebody else may name any path."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("../escaped.json", "{}")
        archive.writestr(f"{tmp_path}/elsewhere/escaped.json", "{}")
    with pytest.raises(SettingError, match=r"has no experiment\.json, which compare and continual write"):
        remake(str(tmp_path / "evil.zip"), str(tmp_path / "again"))
    assert list(tmp_path.glob("**/escaped.json")) == []


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("text")
    for name in ("text.zip", "nowhere.zip"):
        with pytest.raises(
            SettingError, match=rf"archive='.*{name}' cannot be read .*; give what --archive has written"
        ):
            remake(str(tmp_path / name), str(tmp_path / "again"))
    with pytest.raises(SettingError, match=r"archive='runs/a\.tar' does not end in \.zip"):
        check_archive("runs/a.tar")


def test_tables_of_another_experiment_are_not_overwritten(packed: tuple[Path, Path], tmp_path: Path) -> None:
    write_experiment(tmp_path)
    with pytest.raises(SettingError, match="is the folder of an experiment, whose tables would be overwritten"):
        remake(str(packed[1]), str(tmp_path))
