"""## Score, watch, decide

Wakes when a day's features are ready (asset `classy_features`).

| task | does |
|---|---|
| score | the champion over the day's photos, into `predictions` |
| monitor | drift of pictures, predictions and embeddings against the champion's own reference; accuracy on the labels that have arrived. **Monitor page** shows the day, **Drift report** opens Evidently's |
| queue | photos of the day that people are asked to label, at `/label` of the live server; not where labels of a replayed source come by themselves |
| decide | KEEP, WATCH, LABEL, RETRAIN, ROLLBACK or PAGE, with its reason, once a day, into `decisions` |
| tell | one message an incident, and one more when it calls for more: into the log, and where `CLASSY_NOTIFY` says |
| ask | only for RETRAIN: the asset `classy_retrain` wakes training |
| roll back | only for ROLLBACK: the model before takes over |

Without a champion there is nothing to score and the run ends as skipped.
"""

from airflow.sdk import Metadata, dag, task
from notifying import notify
from wiring import DEFAULTS, FEATURES, RECIPE, RETRAIN, START, as_day, extras, linked, run_step, skip_unless, task_page


@dag(
    dag_id="classy_scoring",
    dag_display_name="Classy: score and monitor",
    doc_md=__doc__,
    schedule=[FEATURES],
    start_date=START,
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULTS,
    tags=["classy", RECIPE.name, "monitoring"],
)
def scoring() -> None:
    @task
    def score() -> list[dict]:
        # An event that a person made in the UI may name no day.
        days = sorted({as_day(extra["day"]) for extra in extras(FEATURES) if "day" in extra})
        receipts = [run_step("score", day=day) for day in days]
        scored = [receipt for receipt in receipts if receipt["generation"] is not None]
        skip_unless(bool(scored), "; ".join(receipt["reason"] for receipt in receipts) or "no day to score")
        return scored

    @task
    def monitor(scored: list[dict]) -> list[dict]:
        return [run_step("monitor", day=as_day(receipt["day"]), run_page=task_page()) for receipt in scored]

    @task
    def queue(monitored: list[dict]) -> list[dict]:
        return [run_step("queue", day=as_day(receipt["day"])) for receipt in monitored]

    @task
    def decide(monitored: list[dict]) -> list[dict]:
        return [run_step("decide", day=as_day(receipt["day"])) for receipt in monitored]

    @task(outlets=[RETRAIN])
    def ask(decided: list[dict]):
        asked = [receipt for receipt in decided if receipt["action"] == "RETRAIN"]
        skip_unless(bool(asked), "; ".join(f"{receipt['action']}: {receipt['reason']}" for receipt in decided))
        for receipt in asked:
            yield Metadata(RETRAIN, {key: receipt[key] for key in ("run_key", "as_of", "reason", "drift_from")})

    @task
    def roll_back(decided: list[dict]) -> list[dict]:
        wanted = [receipt for receipt in decided if receipt["action"] == "ROLLBACK"]
        skip_unless(bool(wanted), "nothing is to be rolled back")
        return [
            run_step("rollback", reason=receipt["reason"], actor="classy decide", run_key=receipt["run_key"])
            for receipt in wanted
        ]

    @task
    def tell(decided: list[dict]) -> list[str]:
        news = [receipt for receipt in decided if receipt["notify"]]
        skip_unless(bool(news), "nothing new")
        return notify(news)

    monitored = linked(
        monitor(linked(score(), run_url="MLflow run")),
        page_url="Monitor page",
        report_url="Drift report",
        run_url="MLflow run",
    )
    if not RECIPE.no_queue:
        queue(monitored)
    decided = linked(decide(monitored), page_url="Monitor page")
    ask(decided)
    roll_back(decided)
    tell(decided)


scoring()
