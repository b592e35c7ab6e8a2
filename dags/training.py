"""## Train a contender, judge it, promote it

Runs when `decide` asks for it (asset `classy_retrain`), every Monday, or **by hand: Trigger, and fill in the form**.

| task | does |
|---|---|
| snapshot | freezes the training set as of a time: only what was known then |
| search | looks for better values of a candidate's fields, where the recipe has a space of it: one instance a candidate |
| candidates | lists what is fitted: the candidates that were asked for, each of their seeds, with the values that were chosen |
| fit: train / optimize | fits each of them, exports it to ONNX and checks the export: one instance a fit, by name |
| evaluate | the best contender against the champion on the same held-out rows: PROMOTE, HOLD or INSUFFICIENT DATA. **Model version** has all a reviewer needs |
| approve | waits for a person, if the form or the recipe asks for it: *Required Actions*, or tags on the version in MLflow |
| promote | makes it the champion; a contender that the judge or a person refused ends here as skipped |

A training that is killed resumes at its last epoch when it is retried, a search at its last trial. The same request twice
trains once.
"""

from datetime import timedelta
from typing import Any

from airflow.sdk import AssetOrTimeSchedule, CronTriggerTimetable, Param, dag, task, task_group
from classy_approval import FORM, Approval, as_arguments
from wiring import (
    DEFAULTS,
    RECIPE,
    RETRAIN,
    SCHEDULE,
    SETTINGS,
    START,
    as_day,
    as_utc,
    extras,
    linked,
    receipts,
    run_step,
    skip_unless,
)

from pipelines.recipe import family_of

WEEKLY = AssetOrTimeSchedule(timetable=CronTriggerTimetable("0 6 * * 1", timezone="UTC"), assets=[RETRAIN])
LONGEST = timedelta(minutes=RECIPE.budget.train_minutes) + DEFAULTS["execution_timeout"]
"""Of a training task: its budget ends it in order, the timeout only if that hangs."""
LONGEST_SEARCH = timedelta(minutes=RECIPE.search.minutes) + DEFAULTS["execution_timeout"]
SPACES = list(RECIPE.search.space)
"""Candidates that are searched before they are trained."""
NAMES = [candidate.name for candidate in RECIPE.candidates]


@dag(
    dag_id="classy_training",
    dag_display_name="Classy: train and promote",
    doc_md=__doc__,
    schedule=WEEKLY if SCHEDULE else [RETRAIN],
    start_date=START,
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULTS,
    tags=["classy", RECIPE.name, "training"],
    params={
        "as_of": Param(
            "",
            type="string",
            title="As of",
            description="Labels and photos known by then, such as 2026-03-07. Empty: the end of the newest gathered day.",
        ),
        "window_days": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            title="Window, days",
            description="How far back the training set reaches. Empty: the recipe's.",
        ),
        "drift_from": Param(
            "",
            type="string",
            title="Changed since",
            description="The day from which on photos are of a changed world, such as 2026-03-04: their rows decide the "
            "judgement, and count more in training where the recipe says so. Empty: nothing has changed.",
        ),
        "candidates": Param(
            NAMES,
            type="array",
            items={"type": "string", "enum": NAMES},
            examples=NAMES,
            title="Candidates",
            description="Which of the recipe's candidates to fit.",
        ),
        **(
            {
                "search": Param(
                    True,
                    type="boolean",
                    title="Search first",
                    description=f"Look for better values of {', '.join(SPACES)} before the training. No: the recipe's.",
                )
            }
            if SPACES
            else {}
        ),
        "epochs": Param(
            None, type=["null", "integer"], minimum=1, title="Epochs", description="Empty: each candidate's own."
        ),
        "budget_minutes": Param(
            None,
            type=["null", "number"],
            exclusiveMinimum=0,
            maximum=RECIPE.budget.train_minutes,
            title="Budget, minutes",
            description="Training ends in order at this time with its best weights. At most, and if empty, the recipe's.",
        ),
        "approval": Param(
            RECIPE.gates.approval,
            type="boolean",
            title="Ask a person",
            description="A person must approve before the promotion."
            + (" The recipe asks for it in any case." if RECIPE.gates.approval else ""),
        ),
        "reason": Param("", type="string", title="Reason", description="Why, for the ledger."),
    },
)
def training() -> None:
    @task
    def snapshot(params: dict, dag_run=None) -> dict:
        from pipelines.data.snapshots import newest_as_of

        asked = extras(RETRAIN)
        # Several requests may ride on one run; they are one question, asked last.
        form = {name: params[name] for name in ("as_of", "drift_from", "reason")}
        request = {**form, **(asked[-1] if asked else {})}
        run_key = request.get("run_key") or dag_run.run_id
        as_of = as_utc(request["as_of"]) if request["as_of"] else newest_as_of(SETTINGS)
        since = as_day(request["drift_from"]) if request["drift_from"] else None
        receipt = run_step("snapshot", as_of=as_of, window_days=params["window_days"], drift_from=since)
        skip_unless(receipt["ok"], f"not enough to learn from: {'; '.join(receipt['reasons'])}")
        return {**receipt, "run_key": run_key, "reason": request["reason"]}

    # A group of one task: a task that is mapped by itself loses its button.
    @task_group(group_id="search")
    def look(candidate, snapped):
        @task(
            pool=SETTINGS.training_pool,
            execution_timeout=LONGEST_SEARCH,
            map_index_template="{{ task.op_kwargs['candidate'] }}",
        )
        def search(candidate: str, snapped: dict, params: dict) -> dict:
            skip_unless(params["search"], "no search was asked for")
            skip_unless(candidate in params["candidates"], f"{candidate} was not asked for")
            return run_step(
                "search", snapshot_uri=snapped["snapshot_uri"], run_key=snapped["run_key"], candidate=candidate
            )

        return linked(search(candidate=candidate, snapped=snapped), run_url="MLflow run")

    # What was not asked for is skipped, and the others go on: the snapshot's success is the one that is needed.
    @task(trigger_rule="none_failed_min_one_success")
    def candidates(snapped: dict, searched: Any, params: dict) -> list:
        chosen = {receipt["candidate"]: receipt["chosen"] for receipt in receipts(searched)}
        asked = [name for name in RECIPE.fits if family_of(name) in params["candidates"]]
        skip_unless(bool(asked), "no candidate was asked for")
        return [{"candidate": name, "chosen": chosen.get(family_of(name), {})} for name in asked]

    @task_group
    def fit(asked, snapped):
        @task(
            pool=SETTINGS.training_pool,
            execution_timeout=LONGEST,
            map_index_template="{{ task.op_kwargs['asked']['candidate'] }}",
        )
        def train(asked: dict, snapped: dict, params: dict) -> dict:
            return run_step(
                "train", snapshot_uri=snapped["snapshot_uri"], run_key=snapped["run_key"],
                epochs=params["epochs"], budget_minutes=params["budget_minutes"], **asked,
            )  # fmt: skip

        @task(map_index_template="{{ task.op_kwargs['trained']['candidate'] }}")
        def optimize(trained: dict) -> dict:
            return run_step("optimize", run_id=trained["run_id"])

        return optimize(trained=linked(train(asked=asked, snapped=snapped), run_url="MLflow run"))

    @task(trigger_rule="none_failed_min_one_success")
    def evaluate(snapped: dict, optimized: Any) -> dict:
        run_ids = [receipt["run_id"] for receipt in receipts(optimized)]
        skip_unless(bool(run_ids), "nothing was fitted")
        return run_step("evaluate", run_ids=run_ids, snapshot_uri=snapped["snapshot_uri"], run_key=snapped["run_key"])

    @task
    def promote(snapped: dict, response: dict | None, params: dict) -> dict:
        receipt = run_step(
            "promote", run_key=snapped["run_key"], reason=snapped["reason"], needs_approval=params["approval"],
            **as_arguments(response),
        )  # fmt: skip
        skip_unless(receipt["promoted"], receipt["reason"])
        return receipt

    snapped = snapshot()
    searched = look.partial(snapped=snapped).expand(candidate=SPACES) if SPACES else []
    evaluated = linked(
        evaluate(snapped, fit.partial(snapped=snapped).expand(asked=candidates(snapped, searched))),
        run_url="MLflow run",
        version_url="Model version",
    )
    approve = Approval(
        task_id="approve",
        subject="Promote the contender?",
        run_key=snapped["run_key"],
        version=evaluated["version"],
        verdict=evaluated["verdict"],
        always=RECIPE.gates.approval,
        params=FORM,
        execution_timeout=None,
    )
    linked(promote(snapped, approve.output), version_url="Model version")


training()
