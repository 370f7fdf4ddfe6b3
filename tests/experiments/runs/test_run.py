"""What a run is, where it is kept, and what is read back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_sdft.errors import SettingError
from lightning_sdft.experiments.runs.run import Outcome, PriorBenchmarks, Run, claimed, nested, read_curves, read_parts

OUTCOME = Outcome(0.5, {"test/accuracy": 0.25}, 4, "best.ckpt", 1.5, 300.0)
TEMPLATES = {"template": "{prompt} example {demonstration} now", "filename": "best-step{step:06d}"}


# Parts


def test_parts_are_files_and_settings_in_place_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "double.yaml").write_text("data: {init_args: {skill: '{domain}', batch_size: 8}}\n")
    given = {"model": {"names": ["{domain}", "other"], "rate": 1e-5}}
    read = read_parts([str(tmp_path / "{domain}.yaml"), given], domain="double")
    assert read == [
        {"data": {"init_args": {"skill": "double", "batch_size": 8}}},
        {"model": {"names": ["double", "other"], "rate": 1e-5}},
    ]
    assert given["model"]["names"] == ["{domain}", "other"]  # untouched, for the next domain


def test_other_braces_stay() -> None:
    assert read_parts([TEMPLATES], domain="double") == [TEMPLATES]
    assert read_parts([{"skill": "{domain}"}]) == [{"skill": "{domain}"}]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "does not exist, nor is it the name of a config of this package"),
        (b"model: [1", "is no YAML: "),
        (b"\xff\xfe\x00", "is no YAML: "),
        (b"- model", "is no config of `fit`: it has no settings"),
        (b"", "is no config of `fit`: it has no settings"),
    ],
)
def test_file_that_is_no_config_is_named(content: bytes | None, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "double.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingError, match=r"double\.yaml") as error:
        read_parts([str(tmp_path / "{domain}.yaml")], domain="double")
    assert complaint in str(error.value)


def test_one_setting_as_a_config() -> None:
    assert nested("seed_everything", 3) == {"seed_everything": 3}
    assert nested("data.init_args.skill", "double") == {"data": {"init_args": {"skill": "double"}}}


# Files


def run(**changes: Any) -> Run:
    settings: dict[str, Any] = {
        "parts": [{"model": TEMPLATES}, nested("model.rate", 1e-5)],
        "train": False,
        "checkpoint": "last",
        "evaluate_also": [[{"data": 1}], [{"data": 2}]],
        "prior": PriorBenchmarks(["hellaswag"], limit=3),
        "trust": ["mylab"],
    }
    return Run(**{**settings, **changes})


def test_run_and_outcome_are_read_as_they_were_written(tmp_path: Path) -> None:
    for number, given in enumerate((run(), Run([{"model": {}}], evaluate_also=[], trust=[]))):
        given.write(tmp_path / str(number))
        assert Run.read(tmp_path / str(number)) == given
    assert Outcome.read(tmp_path / "0") is None
    OUTCOME.write(tmp_path / "0")
    assert Outcome.read(tmp_path / "0") == OUTCOME
    assert {path.name for path in (tmp_path / "0").iterdir()} == {"run.json", "outcome.json"}


CHANGES: list[dict[str, Any]] = [
    {"parts": [{"model": TEMPLATES}, nested("model.rate", 1e-4)]},
    {"train": True},
    {"checkpoint": "best"},
    {"evaluate_also": [[{"data": 1}]]},
    {"prior": None},
]


@pytest.mark.parametrize("changes", CHANGES, ids=lambda each: next(iter(each)))
@pytest.mark.parametrize("left", ["outcome.json", "tensorboard/checkpoints/step000002.ckpt"])
def test_what_another_run_has_left_is_not_taken_for_this_ones(
    changes: dict[str, Any], left: str, tmp_path: Path
) -> None:
    run().write(tmp_path)
    run(**changes).write(tmp_path)  # nothing has come of it
    assert Run.read(tmp_path) == run(**changes)
    run().write(tmp_path)
    (tmp_path / "tensorboard/checkpoints").mkdir(parents=True)
    OUTCOME.write(tmp_path)
    (tmp_path / "outcome.json").replace(tmp_path / left)
    before = (tmp_path / "run.json").read_text()
    with pytest.raises(SettingError, match=f"{tmp_path} has the result or checkpoints of a run with other settings"):
        run(**changes).write(tmp_path)
    assert (tmp_path / "run.json").read_text() == before
    run().write(tmp_path)


def test_trust_that_came_later_does_not_make_it_another_run(tmp_path: Path) -> None:
    run(trust=[]).write(tmp_path)
    OUTCOME.write(tmp_path)
    run(trust=["mylab"]).write(tmp_path)
    assert Run.read(tmp_path).trust == ["mylab"]


def test_file_of_another_version_is_named(tmp_path: Path) -> None:
    run().write(tmp_path)
    file = tmp_path / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "later": 1}))
    with pytest.raises(SettingError, match=rf"{file} has settings of another version of lightning_sdft \(.*'later'\)"):
        Run.read(tmp_path)


def test_what_is_written_is_whole_or_not_there(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        Run([{"model": object()}]).write(tmp_path)
    (tmp_path / "outcome.json").mkdir()  # cannot be replaced by a file
    with pytest.raises(OSError, match=r"outcome\.json"):
        OUTCOME.write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["outcome.json"]


HOLD = """
import sys
from fcntl import LOCK_EX, flock
file = open(sys.argv[1], "w")
flock(file, LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def another_at(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process at a run, until its input ends."""
    command = [sys.executable, "-S", "-c", HOLD, str(folder / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process


@pytest.mark.parametrize("end", ["ends", "is killed"])
def test_second_process_waits_until_the_first_is_through(end: str, tmp_path: Path) -> None:
    entered = threading.Event()

    def enter() -> None:
        with claimed(tmp_path):
            entered.set()

    with another_at(tmp_path) as process:
        thread = threading.Thread(target=enter)
        thread.start()
        assert not entered.wait(0.3)
        if end == "is killed":
            process.kill()
        else:
            assert process.stdin is not None
            process.stdin.close()
        thread.join(30)
        assert entered.is_set()


def test_run_that_is_over_is_left_to_the_next(tmp_path: Path) -> None:
    with pytest.raises(KeyError), claimed(tmp_path):
        raise KeyError
    with another_at(tmp_path) as process:
        process.kill()


# Curves


def test_curves_are_what_was_logged_and_of_a_repeated_step_the_last_value(tmp_path: Path) -> None:
    first, second = (TensorBoardLogger(tmp_path, "", "tensorboard") for _ in range(2))
    for step, value in ((2, 0.25), (4, 0.5)):
        first.log_metrics({"val/accuracy/double": value, "loss": 1.0}, step)
    first.experiment.add_text("config", "text is no curve")
    first.experiment.close()
    (written,) = tmp_path.glob("tensorboard/events.*")
    earlier = written.rename(written.with_name("events.out.tfevents.9999999999"))  # names do not say which was first
    os.utime(earlier, (1, 1))
    second.log_metrics({"val/accuracy/double": 0.75}, 4)
    second.log_metrics({"val/accuracy/double": 1.0}, 6)
    second.experiment.close()
    curves = read_curves(tmp_path)
    assert curves["val/accuracy/double"] == {2: 0.25, 4: 0.75, 6: 1.0}
    assert curves["loss"] == {2: 1.0, 4: 1.0}
    assert not any("config" in name for name in curves)


def test_run_that_logged_nothing_has_no_curves(tmp_path: Path) -> None:
    assert read_curves(tmp_path) == {}


def test_configs_survive_the_way_to_a_file_and_back(tmp_path: Path) -> None:
    text = "model: {rate: 1e-5, steps: [1, null, true], template: '{prompt}'}"
    Run([yaml.safe_load(text)]).write(tmp_path)
    assert Run.read(tmp_path).parts == [yaml.safe_load(text)]
    assert json.loads((tmp_path / "run.json").read_text())["train"] is True
