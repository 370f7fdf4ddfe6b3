"""Skills in sequence by the command line, for real: what each stage starts from, and what comes of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lightning_sdft.checkpoint import load_checkpoint
from lightning_sdft.experiments.chains import Chain
from lightning_sdft.experiments.runs.run import Outcome, read_curves
from lightning_sdft.policy import Policy
from tests.experiments.evidence.recomputed import Curves, kept_in_stage
from tests.experiments.laptop_runs import callback, command, outcomes, part, results, same_weights, weights, write

RATE = 1.0e-3
SKILLS = ["swap-ends", "double"]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods, and one whose budget is too small for the second skill."""
    folder = tmp_path_factory.mktemp("continual")
    look, ema = callback("Beginning"), {"class_path": "EMATeacher", "init_args": {"teacher_rate": 0.5}}
    small: dict[str, Any] = {"model": {"init_args": {"max_completion_tokens": 12}}}
    methods = {
        "SFT": {"parts": [part(), look]},
        "SDFT": {"parts": [part("SDFTModule"), look, {"trainer": {"callbacks+": [ema]}}]},
        "broken": {"parts": [part(), small]},
    }
    given = {"skills": SKILLS, "methods": methods, "learning_rates": [RATE], "seeds": [0], "jobs": 2}
    given["endpoint"] = {"method": "SDFT", "against": "SFT"}
    file = write(folder / "continual.yaml", given)
    with pytest.MonkeyPatch.context() as patch:
        command(patch, "continual", "--config", file, "--out", folder / "out", "--trust", "tests")
    return folder / "out"


def stage(out: Path, method: str, number: int) -> Path:
    name = "base" if number == 0 else f"stage-{number}-{SKILLS[number - 1]}"
    return Chain(method, None if number == 0 else RATE, 0).folder(out / "runs") / name


def outcome(folder: Path) -> Outcome:
    found = Outcome.read(folder)
    assert found is not None
    return found


@pytest.mark.parametrize("method", ["SFT", "SDFT"])
def test_stage_starts_from_the_end_of_the_one_before_and_all_else_anew(method: str, out: Path) -> None:
    first, second = stage(out, method, 1), stage(out, method, 2)
    end = load_checkpoint(str(outcome(first).checkpoint))
    assert end["global_step"] == 4
    trained = weights(end["state_dict"])
    assert same_weights(trained, load_file(first / "export/model.safetensors"))
    start = torch.load(second / "tensorboard/beginning.pt", weights_only=True)
    zoo = dict(Policy.load("zoo/laptop").model.state_dict())
    assert same_weights(weights(start["state"]), trained)
    assert not same_weights(zoo, trained)
    at_first = torch.load(first / "tensorboard/beginning.pt", weights_only=True)
    assert same_weights(weights(at_first["state"]), zoo)
    for each in (at_first, start):
        assert each["optimizer"] == {}
        assert each["step"] == 0
    assert start["rate"] == at_first["rate"]
    if method == "SDFT":
        assert same_weights(weights(start["state"], "teacher.policy.model."), trained)
        teacher = weights(end["state_dict"], "teacher.policy.model.")
        assert not same_weights(teacher, trained)  # which is not where the teacher was


def test_failed_stage_ends_its_sequence_alone(out: Path) -> None:
    rows = {(row["method"], row["stage"]): row for row in results(out)}
    assert list(rows) == [("base", 0), *((name, number) for name in ("SFT", "SDFT", "broken") for number in (1, 2))]
    assert [key for key, row in rows.items() if row["error"] is not None] == [("broken", 2)]
    assert "its demonstration has 13 tokens, max_completion_tokens=12" in rows["broken", 2]["error"]
    text = (out / "matrix.md").read_text()
    assert "- broken at 0.001, seed 0, stage 2 (double): FAILED: " in text
    assert "## broken" not in text


def test_matrix_curves_and_results_agree(out: Path) -> None:
    rows = {(row["method"], row["stage"]): row for row in results(out)}
    text = (out / "matrix.md").read_text()
    for method in ("SFT", "SDFT"):
        (_, table, *_) = text.split(f"## {method}\n")
        matrix = []
        for number in (0, 1, 2):
            row = rows["base" if number == 0 else method, number]
            found = outcome(stage(out, "base" if number == 0 else method, number))
            assert row["accuracies"] == {skill: found.metrics[f"test/accuracy/{skill}"] for skill in SKILLS}
            assert len(row["prior"]) == 7
            values = [100 * row["accuracies"][skill] for skill in SKILLS]
            cells = [f"{value:.1f}" for value in (*values, 100 * row["prior_average"])]
            assert f"| {row['skill'] or 'nothing (base)'} | {' | '.join(cells)} |" in table
            matrix.append(values)
            if number:
                curves = read_curves(stage(out, method, number))
                for skill in SKILLS:
                    expected = {str(step): value for step, value in curves[f"val/accuracy/{skill}"].items()}
                    assert row["curves"][skill] == expected
                assert row["validation_accuracy"] == pytest.approx(curves["val/accuracy"][4])
                assert row["steps"] == 4
        (numbers,) = re.findall(rf"^\| {method} \| (.*) \|$", text, re.MULTILINE)
        forgotten = matrix[1][0] - matrix[2][0]
        expected_numbers = [sum(matrix[2]) / 2, forgotten, -forgotten, matrix[1][1] - matrix[0][1]]
        assert [float(each) for each in numbers.split(" | ")] == pytest.approx(expected_numbers, abs=0.051)


def test_what_is_kept_at_equal_accuracy_is_read_from_the_curves_of_each_stage(out: Path) -> None:
    """Accuracies that TensorBoard has; with steps this few, methods may never meet."""
    found = json.loads((out / "evidence.json").read_text())["matched"]
    rows = {(each["domain"], each["measure"]): each for each in found}
    base = _logged(stage(out, "base", 0))
    runs = [[base, *(_logged(stage(out, name, number)) for number in (1, 2))] for name in ("SDFT", "SFT")]
    met = 0
    for number, skill in enumerate(SKILLS, start=1):
        for measure in ("copy", "prior", *SKILLS[: number - 1]):
            expected = kept_in_stage([each[number - 1 : number + 1] for each in runs], SKILLS[:number], measure)
            row = rows.pop((f"stage {number}, {skill}", measure), None)
            assert (row is None) == (expected is None)
            if row is not None:
                met += 1
                assert (row["level"], row["kept"], row["other"]) == pytest.approx(expected)
    assert met > 0


def _logged(folder: Path) -> Curves:
    return {name: {str(step): each for step, each in curve.items()} for name, curve in read_curves(folder).items()}


def test_picture_is_there(out: Path) -> None:
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "<!-- SDFT -->" in (out / "curves.svg").read_text()


def test_same_command_goes_on(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = stage(out, "SFT", 2) / "outcome.json"
    lost.unlink()  # as if it had been killed at its end
    before, rows = outcomes(out), results(out)
    command(monkeypatch, "continual", "--config", out.parent / "continual.yaml", "--out", out, "--trust", "tests")
    after = outcomes(out)
    assert {path: after[path] for path in before} == before
    assert after.keys() - before.keys() == {lost}
    assert results(out) == rows


def test_mistakes_are_said_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = {"SFT": {"parts": [part()]}, "more": {"parts": [part()], "after": "SFT"}}
    given: dict[str, Any] = {"skills": SKILLS, "methods": methods, "learning_rates": [RATE], "seeds": [0]}
    file = write(tmp_path / "continual.yaml", given)
    with pytest.raises(SystemExit, match=r"error: methods\.more\.after: in a sequence each stage starts from the one"):
        command(monkeypatch, "continual", "--config", file, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
