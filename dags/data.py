"""## Data, day by day

Brings one day of photos and arriving labels in, and makes their features ready.

| task | does |
|---|---|
| gather | reads the day's photos from the recipe's source, upserts the labels that arrived |
| validate | puts bad records into quarantine, each with a reason; **a bad day stops here**, by verdict (skipped) |
| prepare | canonical images and picture statistics into a shard |
| materialize | features into Feast, offline and online; then the asset `classy_features` wakes scoring |

Runs daily and catches up from the recipe's first day. Backfill a day or a range from this page (*Trigger →
Backfill*): a day run twice changes nothing.
"""

from datetime import UTC, datetime, time, timedelta

from airflow.sdk import CronDataIntervalTimetable, Metadata, Param, dag, task
from wiring import DEFAULTS, FEATURES, RECIPE, SCHEDULE, START, as_day, run_step, skip_unless

REPLAY_END = datetime.combine(RECIPE.replay.end - timedelta(days=1), time.min, UTC)


@dag(
    dag_id="classy_data",
    dag_display_name="Classy: data",
    doc_md=__doc__,
    # A day is gathered when it is over: the run of D starts at D+1 00:00 UTC and its logical date is D.
    schedule=CronDataIntervalTimetable(SCHEDULE, timezone="UTC") if SCHEDULE else None,
    start_date=START,
    end_date=REPLAY_END if RECIPE.is_replayed else None,
    catchup=True,
    max_active_runs=1,
    default_args=DEFAULTS,
    tags=["classy", RECIPE.name, "data"],
    params={
        "day": Param(
            None,
            type=["null", "string"],
            format="date",
            title="Day",
            description="By hand: which day. Empty: the run's logical date, or yesterday.",
        ),
    },
)
def data() -> None:
    @task
    def gather(params: dict, logical_date=None, dag_run=None) -> dict:
        if params["day"]:
            return run_step("gather", day=as_day(params["day"]))
        return run_step("gather", day=(logical_date or dag_run.run_after - timedelta(days=1)).date())

    @task
    def validate(gathered: dict) -> dict:
        return run_step("validate", raw_uri=gathered["raw_uri"])

    @task
    def prepare(validated: dict) -> dict:
        skip_unless(validated["ok"], f"{validated['day']} was refused: {'; '.join(validated['reasons'])}")
        return run_step("prepare", clean_uri=validated["clean_uri"])

    @task(outlets=[FEATURES])
    def materialize(prepared: dict):
        receipt = run_step("materialize", shard_uri=prepared["shard_uri"])
        yield Metadata(FEATURES, {"day": receipt["day"]})
        return receipt

    materialize(prepare(validate(gather())))


data()
