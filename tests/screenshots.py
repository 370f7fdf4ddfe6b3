"""Takes the screenshots of docs/dashboard.md: TensorBoard's own server, in a real browser: `make screenshots`.

It needs Playwright, and a Chromium of this system or of Playwright's (`playwright install chromium`).
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image
from tensorboard import program

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

RUNS = ("laptop_sft", "laptop_sdft")

COLOURS = 64
"""Of a picture: screens have few, and its file becomes a third as large."""

PART = "tf-category-paginated-view"
"""A category of charts, texts or images."""


READY = {
    "custom_scalars": "vz-line-chart2",
    "text": "tf-text-loader",
    "hparams": "tf-hparams-table-view",
    "images": "tf-image-loader",
}
"""What a tab shows when it is there."""

PATIENCE = 10_000
"""Milliseconds until all that a tab shows is drawn, which happens in steps."""


def train(folder: Path) -> None:
    """Train the laptop model with SFT and SDFT."""
    for name in RUNS:
        command = ["-m", "lightning_sdft", "fit", "--config", name, "--trainer.logger.init_args.save_dir", str(folder)]
        subprocess.run([sys.executable, *command], check=True)


def serve(folder: Path) -> str:
    """Start TensorBoard in this process; its address."""
    board = program.TensorBoard()
    board.configure(argv=["", "--logdir", str(folder), "--port", "0", "--load_fast", "false"])
    address: str = board.launch()
    return address


def charts(page: Page, title: str) -> bytes:
    """A category of Custom Scalars."""
    part = page.locator(PART).filter(has=page.get_by_text(title, exact=True))
    part.scroll_into_view_if_needed()
    return part.screenshot()


def text(page: Page, tag: str, run: str, top: bool = True) -> bytes:
    """The newest table of a run, or the oldest."""
    loader = page.locator("tf-text-loader").filter(has_text=tag).filter(has_text=run)
    if not top:
        loader.locator(".step-value").last.evaluate("label => label.scrollIntoView(true)")
        page.wait_for_timeout(PATIENCE / 10)
    return upper(page, loader, 400)


def upper(page: Page, part: Locator, height: int) -> bytes:
    """The upper pixels of a part."""
    box = part.bounding_box()
    assert box is not None
    x, y, width = (round(box[each]) for each in ("x", "y", "width"))
    return page.screenshot(clip={"x": x, "y": y, "width": width, "height": min(height, round(box["height"]))})


class Picture(NamedTuple):
    """What is taken of a tab, in a browser of so many pixels across."""

    tab: str
    width: int
    take: Callable[[Page], bytes]


SCALARS, WIDE = 1100, 1600

PICTURES = {
    "learning": Picture("custom_scalars", SCALARS, lambda page: charts(page, "learning")),
    "retention": Picture("custom_scalars", SCALARS, lambda page: charts(page, "retention")),
    "loss": Picture("custom_scalars", SCALARS, lambda page: charts(page, "loss")),
    "teacher": Picture("custom_scalars", SCALARS, lambda page: charts(page, "teacher against student")),
    "rollouts": Picture("custom_scalars", SCALARS, lambda page: charts(page, "rollouts")),
    "speed": Picture("custom_scalars", SCALARS, lambda page: charts(page, "speed")),
    "images": Picture("images", SCALARS, lambda page: page.locator(PART).last.screenshot()),
    "answers": Picture("text", WIDE, lambda page: text(page, "answers/", "laptop_sft")),
    "rollout_table": Picture("text", WIDE, lambda page: text(page, "rollouts", "laptop_sdft", top=False)),
    "hparams": Picture("hparams", 1800, lambda page: upper(page, page.locator(READY["hparams"]), 130)),
}
"""By the names of their files."""


def open_tab(page: Page, address: str, tab: str, width: int) -> None:
    """Show a tab of TensorBoard, with curves as they were logged."""
    page.goto("about:blank")  # a change behind the # alone loads nothing
    page.set_viewport_size({"width": width, "height": 2400})
    page.goto(f"{address}#{tab}&_smoothingWeight=0")
    page.wait_for_selector(READY[tab])
    if tab == "custom_scalars":
        page.get_by_text("Ignore outliers in chart scaling").click()
    page.wait_for_timeout(PATIENCE)


def main() -> None:
    """Train, unless there are runs, and take the pictures."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/pictures/tensorboard"), help="folder of the pictures")
    parser.add_argument("--runs", type=Path, help="runs of laptop_sft and laptop_sdft; by default they are trained")
    parser.add_argument("--browser", default=shutil.which("chromium"), help="its program; by default chromium")
    parser.add_argument("names", nargs="*", default=list(PICTURES), help="only these pictures")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        if given.runs is None:
            train(Path(folder))
        address = serve(given.runs or Path(folder))
        browser = playwright.chromium.launch(executable_path=given.browser, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(10 * PATIENCE)
        shown = None
        for name in given.names:
            tab, width, take = PICTURES[name]
            if tab != shown:
                open_tab(page, address, tab, width)
                shown = tab
            picture = Image.open(io.BytesIO(take(page))).convert("RGB").quantize(COLOURS)
            picture.save(given.out / f"{name}.png", optimize=True)
            print(f"{name}: {picture.size[0]} x {picture.size[1]}", flush=True)
        browser.close()


if __name__ == "__main__":
    main()
