"""An experiment is read as it was written."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_sdft.errors import SettingError
from lightning_sdft.experiments.evidence.endpoint import Endpoint
from lightning_sdft.experiments.report.experiment import Experiment
from lightning_sdft.experiments.report.results import Row
from tests.experiments.small_experiment import METHODS, write_experiment


def test_it_comes_back_with_its_rows(tmp_path: Path) -> None:
    rows = write_experiment(tmp_path, Endpoint("SDFT", "SFT", "copy"))
    experiment, records = Experiment.read(tmp_path)
    assert list(map(Row.read, records)) == rows
    assert (experiment.command, experiment.title, experiment.methods) == ("compare", "Made up", list(METHODS))
    questions = experiment.questions(experiment.domains)
    assert questions.endpoint == Endpoint("SDFT", "SFT", "copy")
    assert (questions.ceilings, questions.continued) == (["joint"], ["SFT + again"])


def test_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"has no experiment\.json, which compare and continual write when all runs"):
        Experiment.read(tmp_path)
