from __future__ import annotations

from pathlib import Path

import datasets
import huggingface_hub
import pytest

from lightning_sdft.commands.card_sources import BaseModel, base_model, data_names, hub_ids, metadata


def card(folder: Path, *lines: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text("\n".join(["---", *lines, "---", "", "text"]))
    return folder


def test_folder_is_known_by_its_name_and_its_card(tmp_path: Path) -> None:
    folder = card(tmp_path / "secret" / "mine", "license: other", "license_name: mine-1", "license_link: LICENSE")
    expected = BaseModel("mine", False, {"license": "other", "license_name": "mine-1"})
    assert base_model(str(folder)) == expected
    (folder / "README.md").unlink()
    assert base_model(str(folder)) == BaseModel("mine", False, {})


def test_relative_folder_is_not_taken_for_an_id_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card(tmp_path / "models" / "mine", "license: mit")
    monkeypatch.chdir(tmp_path)
    assert base_model("models/mine") == BaseModel("mine", False, {"license": "mit"})


def test_model_of_the_zoo_has_the_licence_of_the_package() -> None:
    assert base_model("zoo/laptop") == BaseModel("zoo/laptop", False, {"license": "apache-2.0"})


def test_card_of_a_hub_model_is_read_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert base_model("owner/base") == BaseModel("owner/base", True, {})
    place = tmp_path / "models--owner--base"
    card(place / "snapshots" / "abc", "license: other", "license_link: LICENSE.txt")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("abc")
    link = "https://huggingface.co/owner/base/blob/main/LICENSE.txt"
    assert base_model("owner/base") == BaseModel("owner/base", True, {"license": "other", "license_link": link})


def test_data_is_known_by_name_and_by_id_only_if_it_came_from_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    (tmp_path / "hicai-zju___sci_know_eval").mkdir()
    for source, name, ids in (
        ("/home/me/customers/rows.jsonl", "rows.jsonl", []),
        ("customers/rows", "rows", []),
        ("hicai-zju/SciKnowEval:v2@main", "hicai-zju/SciKnowEval:v2@main", ["hicai-zju/SciKnowEval"]),
        ("zoo/events", "zoo/events", []),
    ):
        assert data_names({"train": source, "validation": "other.jsonl", "batch_size": 4}) == [name]
        assert hub_ids({"train": source}) == ids


@pytest.mark.parametrize("text", ["", "no card", "---\nlicense: [\n---\n", "---\n- a\n---\n", "---\nlicense: mit\n"])
def test_what_is_no_card_says_nothing(text: str) -> None:
    assert metadata(text) == {}
