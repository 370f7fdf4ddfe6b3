"""The endpoint: what it is by default, what it may not be, and when it was named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lightning_sdft.errors import SettingError
from lightning_sdft.experiments.evidence.endpoint import Endpoint, named_endpoint
from tests.experiments.small_experiment import plan, write_experiment


def test_by_default_it_is_the_last_method_against_the_first() -> None:
    assert Endpoint.default(["SFT", "DFT", "SDFT"]) == Endpoint("SDFT", "SFT", "new_task")
    assert Endpoint.default(["SDFT"]) == Endpoint("SDFT", "base")


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        (Endpoint("SDFTT", "SFT"), r"endpoint.method='SDFTT' is none of .*did you mean SDFT\?"),
        (Endpoint("base", "SFT"), r"endpoint.method='base' is none of"),
        (Endpoint("SDFT", "DFT"), r"endpoint.against='DFT' is none of \['base', 'SFT'"),
        (Endpoint("SDFT", "SFT", domain="triple"), r"endpoint.domain='triple' is none of \['double', 'swap-ends'\]"),
        (Endpoint("SDFT", "SDFT"), "compares 'SDFT' with itself"),
    ],
)
def test_names_that_are_not_there_are_refused(endpoint: Endpoint, message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=message):
        named_endpoint(endpoint, [], plan(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_ceiling_that_is_no_method_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"ceilings: 'Joint' is none of .*did you mean joint\?"):
        named_endpoint(None, ["Joint"], plan(), tmp_path)


def test_it_is_written_down_when_it_was_named(tmp_path: Path) -> None:
    def said() -> tuple[bool, bool]:
        content = json.loads((tmp_path / "endpoint.json").read_text())
        return content["in_config"], content["before_results"]

    first = Endpoint("SDFT", "SFT")
    named_endpoint(first, [], plan(), tmp_path)
    assert said() == (True, True)
    write_experiment(tmp_path, first)
    assert said() == (True, True)  # the same one again is no other one
    named_endpoint(Endpoint("SDFT", "SFT", "prior"), [], plan(), tmp_path)
    assert said() == (True, False)
