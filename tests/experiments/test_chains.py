"""Sequences of stages: which are whole, which is best."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch.loggers import TensorBoardLogger

from lightning_sdft.experiments.chains import Chain, Stage, best_chains, retention
from lightning_sdft.experiments.measures import SkillRetention
from lightning_sdft.experiments.plan import BASE, Variant
from lightning_sdft.experiments.runs.pool import Failure
from lightning_sdft.experiments.runs.run import Outcome
from tests.experiments.stages import SKILLS, sequence, stage

MATRIX = [[0.5, 0.25], [1.0, 0.5], [0.75, 1.0]]


def test_chain_is_a_method_a_rate_and_a_seed() -> None:
    chain = Chain.of(Variant("a", "SFT", 1e-5, 3))
    assert chain == Chain("SFT", 1e-5, 3)
    assert chain.variant("b") == Variant("b", "SFT", 1e-5, 3)
    assert chain.folder(Path("runs")) == Path("runs/sft/rate-1e-05-seed-3")
    assert Chain(BASE, None, 3).folder(Path("runs")) == Path("runs/base/seed-3")


def test_whole_sequences_of_the_best_rate_begin_with_their_base() -> None:
    low, high = (
        [sequence("SFT", rate, seed, MATRIX, value) for seed, value in enumerate(values)]
        for rate, values in ((1e-5, (0.9, 0.2)), (5e-5, (0.6, 0.6)))
    )
    rows = [row for stages in (*high, *low) for row in stages]
    assert best_chains(rows) == high
    equal = [sequence("SFT", rate, 0, MATRIX, 0.5) for rate in (5e-5, 1e-5)]
    assert best_chains([row for stages in equal for row in stages]) == [equal[1]]


def test_sequence_with_a_stage_that_failed_does_not_count() -> None:
    good, bad = (sequence("SFT", 1e-5, seed, MATRIX) for seed in (0, 1))
    better = sequence("SFT", 5e-5, 0, MATRIX, 1.0)
    better[2] = stage("SFT", 5e-5, 0, 2, (), error="killed")
    bad[1] = stage("SFT", 1e-5, 1, 1, (), error="killed")
    without = sequence("SFT", 1e-5, 2, MATRIX)
    without[0] = stage(BASE, None, 2, 0, (), error="killed")
    assert best_chains([*good, *bad, *better, *without]) == [good]
    assert best_chains([]) == []


def test_retention_is_that_of_the_accuracies() -> None:
    assert retention(sequence("SFT", 1e-5, 0, MATRIX), SKILLS) == SkillRetention(0.875, 0.25, -0.25, 0.25)


def outcome(**metrics: float) -> Outcome:
    return Outcome(
        0.5, {f"test/{name.replace('_', '/')}": value for name, value in metrics.items()}, 4, None, 1.5, 300.0
    )


def test_stage_is_what_its_run_says_and_has_logged(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, "", "tensorboard")
    logger.log_metrics({"val/accuracy/a": 0.25, "val/accuracy/other": 1.0, "val/accuracy": 1.0}, 2)
    logger.experiment.close()
    what = outcome(accuracy_a=0.5, accuracy_b=0.25, prior_copy=1.0, prior_average=0.75)
    found = Stage.of(Chain("SFT", 1e-5, 3), 1, "a", SKILLS, what, tmp_path)
    assert found.record() == {
        "method": "SFT",
        "seed": 3,
        "learning_rate": 1e-5,
        "stage": 1,
        "skill": "a",
        "accuracies": {"a": 0.5, "b": 0.25},
        "prior": {"copy": 1.0},
        "prior_average": 0.75,
        "seconds": 1.5,
        "peak_memory": 300.0,
        "validation_accuracy": 0.5,
        "steps": 4,
        "curves": {"a": {"2": 0.25}},
        "error": None,
    }
    assert str(found) == "SFT at 1e-05, seed 3, stage 1 (a): a 0.500, b 0.250, prior 0.750, 2 s"
    assert found == Stage.of(Chain("SFT", 1e-5, 3), 1, "a", SKILLS, what, tmp_path)


def test_stage_that_failed_says_why(tmp_path: Path) -> None:
    killed = Stage.of(Chain(BASE, None, 3), 0, None, SKILLS, Failure("killed by SIGKILL"), tmp_path)
    assert str(killed) == "base, seed 3: FAILED: killed by SIGKILL"
    unnamed = Stage.of(Chain("SFT", 1e-5, 3), 1, "a", SKILLS, outcome(accuracy_a=0.5, accuracy_c=0.5), tmp_path)
    assert unnamed.error == "no accuracy of b, only test/accuracy/a, test/accuracy/c; name skills as logged"
