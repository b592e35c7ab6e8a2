"""Telling people: Airflow's notifiers, chosen by `CLASSY_NOTIFY`.

The policy says when (once an incident, and once more when it calls for more); here is only how. Addresses and
secrets are in Airflow's connections.
"""

from collections.abc import Sequence
from typing import Any

import httpx
from airflow.providers.smtp.notifications.smtp import SmtpNotifier
from airflow.sdk import Connection, get_current_context
from airflow.sdk.bases.notifier import BaseNotifier
from wiring import RECIPE, SETTINGS, log

WAIT_S = 15.0


class Log(BaseNotifier):
    """One line in the task's log."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def notify(self, context: Any) -> None:
        log.warning(self.text)


class Webhook(BaseNotifier):
    """`{"text": …, "decisions": […]}` as a POST to an HTTP connection. Slack's incoming webhooks read `text`.

    The whole URL is the connection's password, or is put together from its schema, host, port and path (`extra.path`).
    """

    def __init__(self, text: str, decisions: Sequence[dict], conn_id: str) -> None:
        super().__init__()
        self.text, self.decisions, self.conn_id = text, list(decisions), conn_id

    def notify(self, context: Any) -> None:
        answer = httpx.post(
            self._url(), json={"text": self.text, "decisions": self.decisions}, timeout=WAIT_S, trust_env=False
        )
        if answer.is_error:
            raise RuntimeError(f"connection {self.conn_id}: answered {answer.status_code}: {answer.text[:200]}")

    def _url(self) -> str:
        found = Connection.get(self.conn_id)
        if found.password and found.password.startswith(("http://", "https://")):
            return found.password
        if not found.host:
            raise RuntimeError(f"connection {self.conn_id}: has no host; give it one, or the whole URL as its password")
        port = f":{found.port}" if found.port else ""
        path = found.extra_dejson.get("path", "")
        return f"{found.schema or 'https'}://{found.host}{port}/{str(path).lstrip('/')}"


class Mail(SmtpNotifier):
    """The provider's own mail, its text sent as it is: a decision names senders and classes, and is no template."""

    template_fields = ()


def notifiers(asked: str, decisions: Sequence[dict]) -> list[BaseNotifier]:
    """The notifiers of a setting such as `log,webhook:slack,smtp:mail:team@example.org`.

    Raises:
        ValueError: a part of it cannot be read.
    """
    text = "\n".join(message(one) for one in decisions)
    found: list[BaseNotifier] = []
    for part in filter(None, (part.strip() for part in asked.split(","))):
        kind, _, rest = part.partition(":")
        conn_id, _, to = rest.partition(":")
        if kind == "log" and not rest:
            found.append(Log(text))
        elif kind == "webhook" and conn_id and not to:
            found.append(Webhook(text, decisions, conn_id))
        elif kind == "smtp" and conn_id and to:
            subject = f"Classy, {RECIPE.name}: {', '.join(dict.fromkeys(one['action'] for one in decisions))}"
            found.append(Mail(to=to, subject=subject, html_content=_html(text), smtp_conn_id=conn_id))
        else:
            raise ValueError(
                f"CLASSY_NOTIFY={asked!r}: {part!r} is none of log, webhook:CONNECTION, smtp:CONNECTION:TO"
            )
    return found


def message(decision: dict) -> str:
    """A decision's receipt in a sentence."""
    incident = f" ({decision['incident']})" if decision.get("incident") else ""
    return f"{RECIPE.name}, {decision['day']}: {decision['action']}{incident}. {decision['reason']}"


def _html(text: str) -> str:
    from html import escape

    return "".join(f"<p>{escape(line)}</p>" for line in text.splitlines())


def notify(decisions: Sequence[dict]) -> list[str]:
    """Tell of these decisions everywhere; gives who told. One that fails does not keep the others from it.

    Raises:
        ExceptionGroup: those that failed.
    """
    context, told, failed = get_current_context(), [], []
    for notifier in notifiers(SETTINGS.notify, decisions):
        try:
            notifier(context)
            told.append(type(notifier).__name__)
        except Exception as error:  # noqa: BLE001  whatever a notifier raises, the others still have their turn
            failed.append(error)
    if failed:
        raise ExceptionGroup("some could not be told; the task is tried again, and tells all once more", failed)
    return told
