"""## Roll back

**By hand: Trigger, and fill in the form.** Puts an earlier generation's model back in production. It checks first
that the artefact still loads and matches its hash; the switch is one row in `deployments`, with your name and reason.
"""

from airflow.sdk import Param, dag, task
from wiring import DEFAULTS, RECIPE, START, linked, run_step


@dag(
    dag_id="classy_rollback",
    dag_display_name="Classy: roll back",
    doc_md=__doc__,
    schedule=None,
    start_date=START,
    catchup=False,
    max_active_runs=1,
    default_args={**DEFAULTS, "retries": 0},
    tags=["classy", RECIPE.name, "rollback"],
    params={
        "to": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            title="Generation",
            description="Which one (`classy history` lists them). Empty: the one before.",
        ),
        "reason": Param("", type="string", minLength=3, title="Reason", description="Why, for the ledger."),
    },
)
def rollback() -> None:
    @task(task_id="rollback")
    def roll_back(params: dict, dag_run=None) -> dict:
        who = dag_run.triggering_user_name or "airflow"
        return run_step("rollback", to=params["to"], reason=params["reason"], actor=who, run_key=dag_run.run_id)

    linked(roll_back(), version_url="Model version")


rollback()
