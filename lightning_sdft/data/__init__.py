"""Data modules, one file per domain."""

from lightning_sdft.data.base import DemonstrationDataModule
from lightning_sdft.data.general import GeneralDataModule
from lightning_sdft.data.groups import Group, GroupLoader, Item, MicroBatch
from lightning_sdft.data.json_rows import JsonDataModule
from lightning_sdft.data.knowledge import KnowledgeDataModule
from lightning_sdft.data.medical import MedicalDataModule
from lightning_sdft.data.replay import Replay
from lightning_sdft.data.row_module import RowDataModule
from lightning_sdft.data.science import ScienceDataModule, science_question
from lightning_sdft.data.splits import EvaluationSet, Splits
from lightning_sdft.data.string_pretraining import StringPretrainingDataModule
from lightning_sdft.data.string_skills import StringSkillsDataModule
from lightning_sdft.data.templates import AUTHORS_TEMPLATE, PAPER_TEMPLATE
from lightning_sdft.data.tool_use import ToolUseDataModule, tool_use_prompt

__all__ = [
    "AUTHORS_TEMPLATE",
    "PAPER_TEMPLATE",
    "DemonstrationDataModule",
    "EvaluationSet",
    "GeneralDataModule",
    "Group",
    "GroupLoader",
    "Item",
    "JsonDataModule",
    "KnowledgeDataModule",
    "MedicalDataModule",
    "MicroBatch",
    "Replay",
    "RowDataModule",
    "ScienceDataModule",
    "Splits",
    "StringPretrainingDataModule",
    "StringSkillsDataModule",
    "ToolUseDataModule",
    "science_question",
    "tool_use_prompt",
]
