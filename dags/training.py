"""## Train a contender, judge it, promote it

Runs when `decide` asks for it (asset `classy_retrain`), every Monday, or **by hand: Trigger, and fill in the form**.

| task | does |
|---|---|
| snapshot | freezes the training set as of a time: only what was known then |
| train / optimize | fits each candidate, exports it to ONNX and checks the export |
| evaluate | the best contender against the champion on the same held-out rows: PROMOTE, HOLD or INSUFFICIENT DATA. **Model version** has all a reviewer needs |
| approve | waits for a person, if the form or the recipe asks for it: *Required Actions*, or tags on the version in MLflow |
| promote | makes it the champion; a contender that the judge or a person refused ends here as skipped |

A training that is killed resumes at its last epoch when it is retried. The same request twice trains once.
"""

from datetime import timedelta

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
    run_step,
    skip_unless,
)

from pipelines.recipe import family_of

WEEKLY = AssetOrTimeSchedule(timetable=CronTriggerTimetable("0 6 * * 1", timezone="UTC"), assets=[RETRAIN])
LONGEST = timedelta(minutes=RECIPE.budget.train_minutes) + DEFAULTS["execution_timeout"]
"""Of a training task: its budget ends it in order, the timeout only if that hangs."""
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
        "candidates": Param(
            NAMES,
            type="array",
            items={"type": "string", "enum": NAMES},
            examples=NAMES,
            title="Candidates",
            description="Which of the recipe's candidates to fit.",
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
        request = {"as_of": params["as_of"], "reason": params["reason"], **(asked[-1] if asked else {})}
        run_key = request.get("run_key") or dag_run.run_id
        as_of = as_utc(request["as_of"]) if request["as_of"] else newest_as_of(SETTINGS)
        since = as_day(request["drift_from"]) if request.get("drift_from") else None
        receipt = run_step("snapshot", as_of=as_of, window_days=params["window_days"], drift_from=since)
        skip_unless(receipt["ok"], f"not enough to learn from: {'; '.join(receipt['reasons'])}")
        return {**receipt, "run_key": run_key, "reason": request["reason"]}

    def fit(name: str):
        @task_group(group_id=name)
        def group(snapped):
            @task(pool=SETTINGS.training_pool, execution_timeout=LONGEST)
            def train(snapped: dict, params: dict) -> dict:
                skip_unless(family_of(name) in params["candidates"], f"{name} was not asked for")
                return run_step(
                    "train", snapshot_uri=snapped["snapshot_uri"], run_key=snapped["run_key"], candidate=name,
                    epochs=params["epochs"], budget_minutes=params["budget_minutes"],
                )  # fmt: skip

            @task
            def optimize(trained: dict) -> dict:
                return run_step("optimize", run_id=trained["run_id"])

            return optimize(linked(train(snapped), run_url="MLflow run"))

        return group

    @task(trigger_rule="none_failed_min_one_success")
    def evaluate(snapped: dict, optimized: list) -> dict:
        run_ids = [receipt["run_id"] for receipt in optimized if receipt]
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
    evaluated = linked(
        evaluate(snapped, [fit(name)(snapped) for name in RECIPE.fits]),
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
