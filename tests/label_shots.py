"""Screenshots of the page at /label for docs/labelling.md, of a real queue:

    .venv/bin/python -m tests.label_shots            plays the digits recipe first, a minute or two
    .venv/bin/python -m tests.label_shots HOME       photographs the newest queue of HOME, which is labelled for it

Writes docs/label-page.png and docs/label-page-phone.png.
"""

import argparse
import io
import os
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, expect

from monitoring import queued, votes
from monitoring.stores import Store, open_store
from monitoring.votes import Said
from pipelines.loop import LocalStage, play
from pipelines.online.labels import SqlDesk
from pipelines.recipe import ROOT, Recipe, load_recipe
from pipelines.settings import load_settings
from serving.server import Server
from tests.browser import open_browser
from tests.serving import Open, running

DOCS = ROOT / "docs"
NAMES = ("ada", "bob", "grace")


def take(home: Path, name: str, folder: Path) -> None:
    settings, recipe = load_settings(home=home, actor="classy"), load_recipe(name)
    if not (home / "classy.db").exists():
        changes = {"replayed": True, "per_day": 40, "overlap": 0.6}
        story = recipe.story.model_copy(update={"last_day": recipe.drift_from})
        labelling = recipe.labelling.model_copy(update=changes)
        recipe = recipe.model_copy(update={"labelling": labelling, "story": story})
        play(recipe, LocalStage(settings, recipe), print)
    label_most(open_store(settings.database_url), recipe)
    server = Server(components={}, gate=Open(), labels=SqlDesk(settings, recipe))
    with running(server) as found, open_browser() as browser:
        _shot(browser, found.rest, folder / "label-page.png", size=(1180, 900), dark=False)
        _shot(browser, found.rest, folder / "label-page-phone.png", size=(390, 844), dark=True)


def label_most(store: Store, recipe: Recipe) -> None:
    """Let three made-up people label two thirds of each day; they differ where the model is unsure, more or less."""
    rng, now = np.random.default_rng(7), datetime.now(UTC) - timedelta(minutes=5)
    words = []
    for row in queued.listed(store):
        if row["place"] < 26 and not row["votes"]:
            for person in rng.permutation(NAMES)[: row["wanted"]]:
                sure = rng.random() < 0.85 + 0.1 * row["confidence"]
                label = row["predicted"] if sure else str(rng.choice(recipe.taxonomy.classes))
                words.append(Said(image_id=row["image_id"], author=str(person), label=label, at=now))
    votes.take_in(store, words, now=now)


def _shot(browser: Browser, url: str, path: Path, *, size: tuple[int, int], dark: bool) -> None:
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if dark else "light",
        device_scale_factor=2,
        has_touch=dark,
        is_mobile=dark,
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.goto(f"{url}/label")
    page.get_by_label("Your name").fill("ada")
    page.keyboard.press("Enter")
    expect(page.locator("#work")).to_be_visible()
    page.wait_for_function("document.getElementById('photo').naturalWidth > 0")
    whole = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    context.close()
    small = whole.resize((whole.width * 3 // 4, whole.height * 3 // 4), Image.Resampling.LANCZOS)
    small.quantize(256, method=Image.Quantize.MEDIANCUT).save(path, optimize=True)
    sys.stdout.write(f"{path}: {path.stat().st_size / 1000:.0f} kB\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", nargs="?", type=Path)
    parser.add_argument("--recipe", default=os.environ.get("CLASSY_RECIPE", "digits"))
    parser.add_argument("--folder", type=Path, default=DOCS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="classy-shots-") as scratch:
        take(given.home or Path(scratch) / "home", given.recipe, given.folder)
