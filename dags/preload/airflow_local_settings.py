"""Airflow imports this module in every component; the scheduler's copy pays the libraries' import once.

LocalExecutor's workers, and each task, are forked from the scheduler and inherit what it has imported:
without this every task would import torch, MLflow and Feast anew, some 20 seconds on two cores.
Import only: no thread, no CUDA, no open connection may exist before a fork.
"""

import sys

if "scheduler" in sys.argv:
    import pipelines.stage.preload  # noqa: F401
