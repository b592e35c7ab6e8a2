"""Ask a person in Airflow, and notice when they answer elsewhere.

`Approval` runs as a task: it puts the question on Airflow's page and leaves. `Elsewhere` runs in the triggerer until
somebody has answered, in MLflow or by command. This file lies here, and not among the DAGs, because the triggerer
finds its triggers on PYTHONPATH alone.

Airflow 3.3's own operator waits without a trigger, and then nothing but its page can end the wait; asking again from time
to time would start a process each time and take the form away from the person who is reading it. A deferred task waits
as long as it likes on its first try, and a click on the page resumes it at once: the API looks for deferred tasks too.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator, HITLOperator
from airflow.providers.standard.triggers.hitl import HITLTrigger
from airflow.sdk import Param
from airflow.sdk.exceptions import AirflowRuntimeError, AirflowSkipException
from airflow.sdk.execution_time.hitl import (
    update_hitl_detail_response,
    upsert_hitl_detail,
)
from airflow.triggers.base import TriggerEvent
from asgiref.sync import sync_to_async

APPROVE, REJECT = ApprovalOperator.APPROVE, ApprovalOperator.REJECT
EVERY = timedelta(seconds=15)
"""Between two looks at MLflow and the ledger."""
ELSEWHERE = "elsewhere"
FORM = {
    "note": Param(
        None,
        type=["null", "string"],
        format="multiline",
        title="Note",
        description="Why, for the ledger. May be empty.",
    ),
}
"""What the question's page asks beside Approve and Reject: `params=FORM`."""


class Elsewhere(HITLTrigger):
    """Waits for an answer, on Airflow's page or outside it."""

    def __init__(self, *, run_key: str, version: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.run_key, self.version = run_key, version

    def serialize(self) -> tuple[str, dict[str, Any]]:
        _, kwargs = super().serialize()
        return f"{__name__}.{type(self).__name__}", {**kwargs, "run_key": self.run_key, "version": self.version}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        waiting = [asyncio.ensure_future(self._on_the_page()), asyncio.ensure_future(self._outside())]
        try:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            yield done.pop().result()
        finally:
            for task in waiting:
                task.cancel()

    async def _on_the_page(self) -> TriggerEvent:
        """An answer that came before the task was deferred; a later one resumes the task without this trigger."""
        async for event in super().run():
            return event
        raise AssertionError("Airflow's trigger ended without an answer")

    async def _outside(self) -> TriggerEvent:
        from pipelines.errors import ClassyError

        look = None
        while True:
            # Waiting first: an answer in the same second would meet the scheduler while it still tidies up.
            await asyncio.sleep(EVERY.total_seconds())
            try:
                look = look or await asyncio.to_thread(_watch, self.run_key, self.version)
                said = await asyncio.to_thread(look)
            except ClassyError as error:
                self.log.warning("%s", error)
                look = None
                continue
            if said:
                return await self._note_on_the_page(*said)

    async def _note_on_the_page(self, action: str, said: str) -> TriggerEvent:
        """So that Airflow's page does not say for ever that nobody answered."""
        chosen = [APPROVE if action == "APPROVE" else REJECT]
        try:
            await sync_to_async(update_hitl_detail_response)(
                ti_id=self.ti_id, chosen_options=chosen, params_input={"note": said}
            )
        except AirflowRuntimeError as error:
            self.log.warning("%s", error)
            # Somebody clicked at the same time: `promote` hears both.
            return await self._on_the_page()
        return TriggerEvent({ELSEWHERE: said})


def _watch(run_key: str, version: str) -> Any:
    from pipelines.review import approval
    from pipelines.settings import load_settings

    return approval.watch(load_settings(), run_key, version)


class Approval(HITLOperator):
    """Approve or reject, with a note; asked where the run's form or the recipe wants it and the judge said PROMOTE.

    Gives Airflow's response, or None where nobody had to be asked or the answer was given elsewhere: `promote` finds it
    there. A rejection is an answer like any other, so that it is recorded too.
    """

    template_fields = (*HITLOperator.template_fields, "run_key", "version", "verdict")

    def __init__(self, *, run_key: Any, version: Any, verdict: Any, always: bool, **kwargs: Any) -> None:
        super().__init__(options=[APPROVE, REJECT], **kwargs)
        self.run_key, self.version, self.verdict, self.always = run_key, version, verdict, always

    def execute(self, context: Any) -> Any:
        from pipelines.review import approval
        from pipelines.settings import load_settings

        if self.verdict != "PROMOTE":
            raise AirflowSkipException(f"the judge said {self.verdict}")
        if not (self.always or context["params"]["approval"]):
            return None
        settings, ti_id = load_settings(), context["task_instance"].id
        if said := approval.answered(settings, self.run_key, self.version):
            self.log.info("Answered already: %s", said[1])
            return None
        self.subject = f"Promote version {self.version}?"
        self.body = approval.question(settings, self.run_key)
        upsert_hitl_detail(
            ti_id=ti_id,
            options=self.options,
            subject=self.subject,
            body=self.body,
            params=self.serialized_params,
        )
        self.log.info("Asked; see Required Actions")
        trigger = Elsewhere(
            run_key=self.run_key,
            version=self.version,
            ti_id=ti_id,
            options=self.options,
            params=self.serialized_params,
            timeout_datetime=None,
            poke_interval=EVERY.total_seconds(),
        )
        self.defer(trigger=trigger, method_name="execute_complete")

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        if ELSEWHERE in event:
            self.log.info("Answered outside Airflow: %s", event[ELSEWHERE])
            return None
        return super().execute_complete(context, event)


def as_arguments(response: dict[str, Any] | None) -> dict[str, Any]:
    """Airflow's response as arguments of `promote`; none where no person answered here."""
    if not response or not (who := response["responded_by_user"]):
        return {}
    name = "rejected_by" if response["chosen_options"] == [REJECT] else "approved_by"
    return {name: who["name"], "note": response["params_input"].get("note") or "", "via": "airflow"}
