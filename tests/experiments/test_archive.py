"""An archive holds all that tables are made from, and no more."""

from __future__ import annotations

import json
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml

from lightning_sdft.errors import SettingError
from lightning_sdft.experiments.archive import check_archive, finish
from lightning_sdft.experiments.compare import compare
from lightning_sdft.experiments.report.experiment import Experiment
from tests.experiments.small_experiment import TABLES, packed

__all__ = ["packed"]


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


def test_name_that_is_no_archives_is_refused_before_anything_is_trained() -> None:
    with pytest.raises(SettingError, match=r"archive='runs/a\.tar' does not end in \.zip"):
        check_archive("runs/a.tar")
