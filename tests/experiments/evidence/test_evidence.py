"""The evidence of a comparison, beside what a script of its own works out from the same files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lightning_sdft.experiments.evidence.endpoint import Endpoint
from lightning_sdft.experiments.report.written import write_report
from tests.experiments.evidence.recomputed import Files, recomputed, step_down
from tests.experiments.small_experiment import DOMAINS, METHODS, write_experiment


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experiment")
    write_experiment(folder, Endpoint("SDFT", "SFT"))
    write_report(folder, folder)
    return folder


@pytest.fixture(scope="module")
def found(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "evidence.json").read_text())
    return content


def check(test: dict[str, Any], other: dict[str, Any], with_bootstrap: bool = False) -> None:
    """Whether a test agrees with what was worked out by another way."""
    assert test["difference"] == pytest.approx(other["difference"], abs=1e-12)
    assert [each["difference"] for each in test["seeds"]] == pytest.approx(other["differences"], abs=1e-12)
    assert [each["p"] for each in test["seeds"]] == pytest.approx(other["seed_p"], rel=1e-9)
    assert test["p"] == pytest.approx(other["p"], rel=1e-9)
    sign = round(other["difference"], 9)
    assert test["agreeing"] == sum(each * sign > 0 for each in other["differences"])
    if with_bootstrap:
        assert test["bootstrap"] == pytest.approx(other["bootstrap"](), abs=0.01)


def test_endpoint_is_over_all_domains_and_not_corrected(out: Path, found: dict[str, Any]) -> None:
    endpoint = found["endpoint"]
    assert (endpoint["in_config"], endpoint["before_results"]) == (True, True)
    check(endpoint["test"], recomputed(Files(out), list(DOMAINS), "SDFT", "SFT", "new_task"), with_bootstrap=True)
    assert endpoint["test"]["corrected"] == endpoint["test"]["p"]
    assert endpoint["test"]["words"] == "better"


def test_all_other_tests_agree_and_are_corrected_for_their_number(out: Path, found: dict[str, Any]) -> None:
    tests = found["tests"]
    pairs = [("SDFT", other) for other in METHODS if other != "SDFT"] + [(each, "base") for each in METHODS]
    measures = ("new_task", "copy", "sort", "prior")
    asked = {(domain, *pair, measure) for domain in DOMAINS for pair in pairs for measure in measures}
    assert {(each["domain"], each["method"], each["against"], each["measure"]) for each in tests} == asked
    files = Files(out)
    for place, each in enumerate(tests):
        other = recomputed(files, [each["domain"]], each["method"], each["against"], each["measure"])
        check(each, other, with_bootstrap=place % 10 == 0)
    assert [each["corrected"] for each in tests] == pytest.approx(step_down([each["p"] for each in tests]), rel=1e-9)


def test_run_that_failed_is_in_no_test(found: dict[str, Any]) -> None:
    seeds = [
        [each["seed"] for each in test["seeds"]]
        for test in found["tests"]
        if (test["domain"], test["method"]) == ("double", "joint")
    ]
    assert len(seeds) == 4
    assert all(each == [1, 2, 3, 4] for each in seeds)


def test_what_is_kept_is_compared_where_both_have_learned_equally_much(found: dict[str, Any]) -> None:
    """SFT ends at 0.7, where it keeps 0.5; SDFT is half way between its validations at 0.5 and 0.9 then."""
    (sft,) = [
        each
        for each in found["matched"]
        if (each["domain"], each["against"], each["measure"]) == ("double", "SFT", "prior")
    ]
    assert (sft["level"], sft["other"]) == (pytest.approx(0.7), pytest.approx(0.5))
    assert sft["kept"] == pytest.approx((0.9 + 0.93) / 2)
    assert sft["difference"] == pytest.approx(0.415)
    assert {each["measure"] for each in found["matched"]} == {"copy", "prior"}


def test_ceilings_are_methods_that_are_named_so_and_a_methods_teacher(found: dict[str, Any]) -> None:
    ceilings = {(each["domain"], each["method"], each["ceiling"]): each for each in found["ceilings"]}
    assert {key[2] for key in ceilings} == {"joint", "its teacher"}
    assert ("double", "joint", "joint") not in ceilings
    taught = ceilings["double", "SDFT", "its teacher"]
    assert taught["top"] == 1.0  # as training began
    assert taught["share"] == pytest.approx((taught["accuracy"] - taught["base"]) / (1.0 - taught["base"]))
    joint = ceilings["swap-ends", "SFT", "joint"]
    assert joint["share"] == pytest.approx((joint["accuracy"] - joint["base"]) / (joint["top"] - joint["base"]))


def test_runs_without_verdicts_are_named_and_not_tested(tmp_path: Path) -> None:
    write_experiment(tmp_path, with_details=False)
    write_report(tmp_path, tmp_path)
    content = json.loads((tmp_path / "evidence.json").read_text())
    assert len(content["without_verdicts"]) == 49
    assert {each["words"] for each in content["tests"]} == {"no verdicts, no test"}
    assert all(each["half_width"] is not None for each in content["tests"])  # averages say that much
    assert "No verdicts on single questions were kept of 49 runs" in (tmp_path / "evidence.md").read_text()


def test_endpoint_of_one_domain_takes_its_test_out_of_the_others(tmp_path: Path) -> None:
    write_experiment(tmp_path, Endpoint("SDFT", "base", "copy", "double"))
    write_report(tmp_path, tmp_path)
    content = json.loads((tmp_path / "evidence.json").read_text())
    assert content["endpoint"]["test"]["domain"] == "double"
    asked = [(each["domain"], each["method"], each["against"], each["measure"]) for each in content["tests"]]
    assert ("double", "SDFT", "base", "copy") not in asked
    assert ("swap-ends", "SDFT", "base", "copy") in asked
