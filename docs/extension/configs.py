"""The configs of the package, each with the comment at its top."""

from __future__ import annotations

from lightning_sdft.commands.config_files import config_names
from lightning_sdft.commands.configs import first_sentence

__all__ = ["pages"]

FOLDERS = {
    "": ("The base", "Read before every run."),
    "experiment": ("Experiments", "One file, one run."),
    "method": ("Methods", "Parts to compose with data and a trainer."),
    "preset": ("Presets", "What others' settings are here."),
    "data": ("Data", "Parts: where the rows come from."),
    "trainer": ("Trainers", "Parts: devices and precision."),
    "rollout": ("Rollout engines", "Parts: who samples."),
    "compare": ("Comparisons", "For `lightning-sdft compare`."),
    "continual": ("Skills in sequence", "For `lightning-sdft continual`."),
    "sweep": ("Sweeps", "For `lightning-sdft sweep`."),
    "zoo": ("Models of the package", "How they were pretrained."),
}


def pages() -> dict[str, str]:
    """The page, by the name of its file."""
    lines = ["# Configs\n", "`--config NAME` takes each by its name; `lightning-sdft configs` lists them, too.\n"]
    names = {name: path for name, path in config_names().items() if "parts/" not in name}
    for folder, (title, text) in FOLDERS.items():
        lines += [f"## {title}\n", f"{text}\n", "| name | |", "|---|---|"]
        for name, path in names.items():
            if name.rpartition("/")[0] == folder:
                lines.append(f"| `{name}` | {first_sentence(path)} |")
        lines.append("")
    missing = {name.rpartition("/")[0] for name in names} - set(FOLDERS)
    if missing:
        raise ValueError(f"configs in {sorted(missing)} have no place on the page; add them in {__file__}")
    return {"configs.md": "\n".join(lines)}
