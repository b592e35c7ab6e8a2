"""Import what the steps import, and nothing else: for a process that forks one process a task."""

import importlib

STEPS = (
    "gather", "validate", "prepare", "materialize", "snapshot", "train", "optimize", "evaluate", "promote",
    "rollback", "score", "monitor", "decide",
)  # fmt: skip
"""Every step, in the order of the loop. `classy STEP` and the DAG tasks are made from these names."""

for _step in STEPS:
    importlib.import_module(f"pipelines.{_step}")
