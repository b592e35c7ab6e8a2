"""Import what the steps import, and nothing else: for a process that forks one process a task."""

import importlib

from pipelines.steps import STEPS

for _step in STEPS:
    importlib.import_module(f"pipelines.{_step}")
