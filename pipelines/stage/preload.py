"""Import what the steps import, and nothing else: for a process that forks one process a task."""

import importlib

from pipelines.recipe import load_recipe
from pipelines.settings import load_settings
from pipelines.steps import STEPS

for _step in STEPS:
    importlib.import_module(f"pipelines.{_step}")
importlib.import_module("pipelines.lineage.events")
importlib.import_module(f"pipelines.sources.{load_recipe(load_settings().recipe).source.kind}")
