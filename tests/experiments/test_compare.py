"""Comparisons by the command line, for real: what is trained, chosen, evaluated, repeated and reported."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from lightning_sdft.checkpoint import load_checkpoint
from lightning_sdft.commands.fit import main
from lightning_sdft.experiments.runs.run import Outcome, read_curves
from tests.experiments.laptop_runs import (
    BEST,
    callback,
    command,
    outcomes,
    part,
    process,
    results,
    same_weights,
    wait_for,
    weights,
    write,
)

HIGH = 1.0e-2
"""A learning rate that soon spoils the model, so that the second step is better than the last."""


def config(folder: Path, **changes: Any) -> dict[str, Any]:
    """Four methods and one that waits in vain, in files and in place."""
    sft = write(folder / "sft.yaml", part())
    kept = [{"class_path": "LastCheckpoints"}, BEST]
    sdft = write(folder / "sdft.yaml", part("SDFTModule", callbacks=kept))
    own: dict[str, Any] = {"learning_rates": [1.0e-4]}
    again = {"after": "SFT", "checkpoint": "last", **own, "parts": [part("ReinvokeModule", {"train_on": "prior"})]}
    broken = {**own, "parts": [str(sft), {"model": {"init_args": {"max_prompt_tokens": 2}}}]}
    methods = {
        "SFT": {"parts": [str(sft)]},
        "SFT + again": again,
        "SDFT": {"parts": [str(sdft), callback("Pause", file=str(folder / "pause"))], "learning_rates": [HIGH]},
        "broken": broken,
        "in vain": {**again, "after": "broken"},
    }
    given = {"title": "Small", "domains": ["double"], "methods": methods, "learning_rates": [1.0e-4, HIGH]}
    return {**given, "seeds": [0], "jobs": 2, **changes}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compare")


@pytest.fixture(scope="module")
def out(folder: Path) -> Path:
    """The results of a comparison that nothing disturbs."""
    file = write(folder / "compare.yaml", config(folder))
    with pytest.MonkeyPatch.context() as patch:
        command(patch, "compare", "--config", file, "--out", folder / "out", "--trust", "tests")
    return folder / "out"


def run(out: Path, method: str, rate: float) -> Path:
    return out / "runs/double" / method / f"rate-{rate:g}-seed-0"


def outcome(folder: Path) -> Outcome:
    found = Outcome.read(folder)
    assert found is not None
    return found


def test_rows_are_of_every_run_in_the_order_of_the_methods(out: Path) -> None:
    rows = results(out)
    expected = [("base", None), ("SFT", 1e-4), ("SFT", HIGH), ("SFT + again", 1e-4), ("SDFT", HIGH)]
    expected += [("broken", 1e-4), ("in vain", 1e-4)]
    assert [(row["method"], row["learning_rate"]) for row in rows] == expected
    for row in rows[:5]:
        assert row["error"] is None
        assert len(row["prior"]) == 7
        assert row["prior_average"] == pytest.approx(sum(row["prior"].values()) / 7)
    assert rows[0]["new_task_accuracy"] > 0.3
    assert rows[0]["prior_average"] == 1
    assert rows[2]["new_task_accuracy"] != rows[1]["new_task_accuracy"]


def test_method_that_fails_stops_no_other_but_what_comes_after_it(out: Path) -> None:
    broken, vain = results(out)[5:]
    assert broken["error"].startswith("16 of 16 examples are over a token budget")
    assert "max_prompt_tokens=2" in broken["error"]
    assert vain["error"] == "no run of broken on double to start from"
    table = (out / "table5.md").read_text()
    assert f"- broken on double at 0.0001, seed 0: FAILED: {broken['error']}\n" in table
    assert "| broken |  | 0 | - |" in table
    assert f"| SFT | {outcome_rate(out):g} | 1 |" in table


def outcome_rate(out: Path) -> float:
    """The learning rate of SFT with the better accuracy on the validation split; the lower of equals."""
    return max((1e-4, HIGH), key=lambda rate: outcome(run(out, "sft", rate)).validation_accuracy or 0.0)


def test_other_seeds_are_trained_at_the_rate_that_the_first_ones_say_is_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "one.yaml", config(tmp_path, methods={"SFT": {"parts": [part()]}}))
    command(monkeypatch, "compare", "--config", file, "--out", tmp_path, "--seeds", "[0,1]", "--rate_seeds", "1")
    accuracies = {rate: outcome(run(tmp_path, "sft", rate)).validation_accuracy or 0.0 for rate in (1e-4, HIGH)}
    best = max(accuracies, key=lambda rate: accuracies[rate])
    rows = results(tmp_path)[2:]
    runs = [(1e-4, 0), (HIGH, 0), (best, 1)]
    assert [(row["learning_rate"], row["seed"]) for row in rows] == sorted(runs)
    assert f"| SFT | {best:g} | 2 |" in (tmp_path / "table5.md").read_text()
    assert "[5/5] " in capsys.readouterr().out


@pytest.mark.parametrize("method", ["sft", "sdft"])
def test_best_checkpoint_on_the_validation_split_is_evaluated(method: str, out: Path) -> None:
    folder = run(out, method, HIGH)
    found, curve = outcome(folder), read_curves(folder)["val/accuracy"]
    first, last = (curve[step] for step in sorted(curve))
    assert first > last  # else the last would do as well
    assert found.validation_accuracy == pytest.approx(first)
    assert found.steps == 4
    assert load_checkpoint(str(found.checkpoint))["global_step"] == 2


def test_last_checkpoint_is_evaluated_where_that_is_asked_for(out: Path) -> None:
    folder = run(out, "sft-again", 1e-4)
    found = outcome(folder)
    assert load_checkpoint(str(found.checkpoint))["global_step"] == 4
    assert found.validation_accuracy == pytest.approx(read_curves(folder)["val/accuracy"][4])


def test_accuracies_are_those_of_fit_and_test(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["lightning-sdft"])
    sft = yaml.safe_load((out.parent / "sft.yaml").read_text())
    sft["data"]["init_args"]["skill"] = "double"
    logger = {"class_path": "TensorBoardLogger", "init_args": {"save_dir": str(tmp_path), "name": "", "version": ""}}
    quiet = {"trainer": {"logger": logger, "enable_progress_bar": False, "enable_model_summary": False}}
    files = [write(tmp_path / "sft.yaml", sft), write(tmp_path / "quiet.yaml", quiet)]
    arguments = [argument for file in files for argument in ("--config", str(file))]
    arguments += ["--seed_everything=0", "--data.shuffle_seed=0", f"--model.learning_rate={HIGH}"]
    trained = main(["fit", *arguments]).trainer
    best = trained.checkpoint_callback
    tested = main(["test", *arguments, "--ckpt_path", best.best_model_path]).trainer  # type: ignore[union-attr]
    found = outcome(run(out, "sft", HIGH))
    assert found.validation_accuracy == best.best_model_score.item()  # type: ignore[union-attr]
    metrics = {name: value.item() for name, value in tested.callback_metrics.items()}
    assert {name: metrics[name] for name in found.metrics} == found.metrics
    assert "test/accuracy" in found.metrics


def test_what_comes_after_a_method_starts_from_what_that_has_learned(out: Path) -> None:
    before = run(out, "sft", outcome_rate(out))
    exported = load_file(before / "export/model.safetensors")
    checkpoint = load_checkpoint(str(outcome(before).checkpoint))
    assert same_weights(weights(checkpoint["state_dict"]), exported)
    after = load_checkpoint(str(outcome(run(out, "sft-again", 1e-4)).checkpoint))
    assert after["lightning_sdft"]["model"] == str(before / "export")
    zoo = weights(after["state_dict"], "teacher.policy.model.")
    assert not same_weights(zoo, exported)
    start = yaml.safe_load((run(out, "sft-again", 1e-4) / "tensorboard/config.yaml").read_text())
    assert start["model"]["init_args"]["model"] == str(before / "export")
    assert start["model"]["init_args"]["teacher"]["init_args"]["model"] == "zoo/laptop"


def test_pictures_and_hyperparameters_are_there(out: Path) -> None:
    assert (out / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (out / "pareto.svg").read_text()
    assert len(list(out.glob("tensorboard/*/double/0/*/events.*"))) == 5


def test_same_command_repeats_nothing_but_what_failed_and_its_archive_gives_the_same_tables(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before, rows, table = outcomes(out), (out / "results.json").read_text(), (out / "table5.md").read_text()
    assert len(before) == 5
    log = (run(out, "broken", 1e-4) / "log.txt").stat().st_size
    arguments = ["compare", "--config", out.parent / "compare.yaml", "--out", out, "--trust", "tests"]
    command(monkeypatch, *arguments, "--archive", tmp_path / "small.zip")
    assert outcomes(out) == before
    assert (out / "results.json").read_text() == rows
    assert (out / "table5.md").read_text() == table
    command(monkeypatch, "remake", "--archive", tmp_path / "small.zip", "--out", tmp_path / "again")
    for name in ("table5.md", "evidence.md", "evidence.json"):
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes()
    assert (run(out, "broken", 1e-4) / "log.txt").stat().st_size > log
    said = capsys.readouterr().out
    assert "[7/7] " in said
    assert table in said


def test_other_settings_in_the_same_folder_are_refused(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = outcomes(out)
    changed = config(out.parent, seeded=["seed_everything", "data.init_args.data_seed"])
    file = write(out.parent / "changed.yaml", changed)
    with pytest.raises(SystemExit, match=r"error: .*/base/seed-0 has the result or checkpoints of a run with other"):
        command(monkeypatch, "compare", "--config", file, "--out", out, "--trust", "tests")
    assert outcomes(out) == before


def test_other_model_to_start_from_stops_only_what_started_from_the_first(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if runs at the learning rate that is best had failed before, and not this time."""
    copy = tmp_path / "out"
    shutil.copytree(out, copy)
    better = run(copy, "sft", next(rate for rate in (1e-4, HIGH) if rate != outcome_rate(out)))
    replace(outcome(better), validation_accuracy=2.0).write(better)
    command(monkeypatch, "compare", "--config", out.parent / "compare.yaml", "--out", copy, "--trust", "tests")
    before, after = results(out), results(copy)
    changed = [row["method"] for row, old in zip(after, before, strict=True) if row["error"] != old["error"]]
    assert changed == ["SFT + again"]
    (again,) = [row for row in after if row["method"] == "SFT + again"]
    assert "a run with other settings" in again["error"]
    assert "remove that folder" in again["error"]


def test_killed_comparison_goes_on_to_the_same_results(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run at a time, and with all processes killed in the middle of one that keeps checkpoints to go on from."""
    pause = out.parent / "pause"
    arguments = ["compare", "--config", out.parent / "compare.yaml", "--out", tmp_path, "--trust", "tests", "--jobs=1"]
    pause.touch()
    with process(*arguments) as started:
        wait_for(lambda: pause.read_text() or started.poll() is not None)
        assert started.poll() is None
        os.killpg(started.pid, signal.SIGKILL)
    pause.unlink()
    before = outcomes(tmp_path)
    assert not (tmp_path / "results.json").exists()
    assert 0 < len(before) < 5
    interrupted = run(tmp_path, "sdft", HIGH)
    (checkpoint,) = interrupted.glob("tensorboard/checkpoints/step*.ckpt")
    assert load_checkpoint(checkpoint)["global_step"] == 2
    command(monkeypatch, *arguments)
    assert outcomes(tmp_path).items() >= before.items()
    assert f"Training goes on from {checkpoint}" in (interrupted / "log.txt").read_text()
    assert results(tmp_path) == results(out)
    assert (tmp_path / "table5.md").read_text() == (out / "table5.md").read_text()


def test_runs_with_the_same_settings_are_taken_from_another_comparison(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = {"anew": {"parts": [str(out.parent / "sft.yaml")]}}
    file = write(tmp_path / "other.yaml", config(out.parent, methods=methods, learning_rates=[HIGH], seeds=[0, 1]))
    command(monkeypatch, "compare", "--config", file, "--out", tmp_path, "--reuse", f"[{out}]")
    base, _, taken, trained = results(tmp_path)
    assert base == results(out)[0]
    assert taken == {**results(out)[2], "method": "anew"}
    assert outcome(run(tmp_path, "anew", HIGH)) == outcome(run(out, "sft", HIGH))
    assert not (run(tmp_path, "anew", HIGH) / "log.txt").exists()
    assert trained["error"] is None
    assert (tmp_path / f"runs/double/anew/rate-{HIGH:g}-seed-1/log.txt").exists()
