"""The names of the steps."""

STEPS = (
    "gather", "validate", "prepare", "materialize", "snapshot", "search", "train", "optimize", "evaluate", "promote",
    "rollback", "score", "monitor", "queue", "decide",
)  # fmt: skip
"""Every step, in the order of the loop. `classy STEP` and the DAG tasks have these names."""
