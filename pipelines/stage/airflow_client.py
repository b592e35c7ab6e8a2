"""A small client of Airflow's REST API v2: trigger a run, wait for all to settle, tell what failed."""

import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import httpx

from pipelines.errors import ClassyError

DONE = {"success", "failed"}


@dataclass
class AirflowClient:
    """Logged in as `user` at `url`.

    Raises:
        ClassyError: Airflow does not answer or refuses.
    """

    url: str
    password: str
    user: str = "admin"
    _http: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self._http = httpx.Client(base_url=self.url, timeout=30)
        answer = self._send("POST", "/auth/token", json={"username": self.user, "password": self.password})
        self._http.headers["Authorization"] = f"Bearer {answer['access_token']}"

    def _send(self, method: str, path: str, **given: Any) -> Any:
        try:
            response = self._http.request(method, path, **given)
        except httpx.TransportError as error:
            raise ClassyError(f"Airflow at {self.url} does not answer ({error}); start it with `make up`") from error
        if response.is_error:
            raise ClassyError(f"Airflow at {self.url}: {method} {path}: {response.status_code} {response.text[:500]}")
        return response.json() if response.content else None

    def get(self, path: str, **params: Any) -> Any:
        return self._send("GET", f"/api/v2{path}", params=params)

    def known_dags(self) -> set[str]:
        return {dag["dag_id"] for dag in self.get("/dags")["dags"]}

    def import_errors(self) -> list[str]:
        """What the DAG folder's files failed with, if any did."""
        return [f"{error['filename']}: {error['stack_trace']}" for error in self.get("/importErrors")["import_errors"]]

    def pause(self, dag_id: str, paused: bool) -> None:
        self._send("PATCH", f"/api/v2/dags/{dag_id}", json={"is_paused": paused})

    def trigger(self, dag_id: str, *, run_id: str, logical_date: datetime | None, conf: dict[str, Any]) -> None:
        """Ask for one run. Its id is the caller's, so that a doubled request is refused by Airflow."""
        self._send(
            "POST", f"/api/v2/dags/{dag_id}/dagRuns",
            json={"dag_run_id": run_id, "logical_date": logical_date and logical_date.isoformat(), "conf": conf},
        )  # fmt: skip

    def runs(self) -> list[dict[str, Any]]:
        """All runs of Classy's DAGs, oldest first."""
        return self._pages("/dags/~/dagRuns", "dag_runs", order_by="run_after", dag_id_pattern="classy_")

    def settled(self) -> bool:
        """Whether no run is open and no event waits to become one.

        An event that waits is asked for first: Airflow makes it a run and forgets it at once.
        """
        waiting = [
            self.get(f"/assets/{asset['id']}/queuedEvents")["total_entries"]
            for asset in self._pages("/assets", "assets", name_pattern="classy_")
        ]
        return not any(waiting) and all(run["state"] in DONE for run in self.runs())

    def task_instances(self) -> list[dict[str, Any]]:
        return self._pages("/dags/~/dagRuns/~/taskInstances", "task_instances")

    def _pages(self, path: str, key: str, **params: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            page = self.get(path, limit=100, offset=len(found), **params)
            found += page[key]
            if not page[key] or len(found) >= page["total_entries"]:
                return found

    def failed_task(self, run: dict[str, Any]) -> str:
        """Name of the task that failed in a run, the end of its log, and what to do."""
        path = f"/dags/{run['dag_id']}/dagRuns/{run['dag_run_id']}/taskInstances"
        for ti in self.get(path)["task_instances"]:
            if ti["state"] == "failed":
                log = self.get(f"{path}/{ti['task_id']}/logs/{ti['try_number']}", map_index=ti["map_index"])
                lines = "\n".join(f"    {line}" for line in _log_lines(log)[-15:])
                one = f" ({ti['rendered_map_index'] or ti['map_index']})" if ti["map_index"] >= 0 else ""
                return f"{run['dag_id']}.{ti['task_id']}{one} failed in run {run['dag_run_id']}. Its log ends:\n{lines}"
        return f"{run['dag_id']} run {run['dag_run_id']} failed without a failed task"

    def work_done(self) -> tuple[int, float]:
        """How many tasks ran, and the seconds of work that they themselves reported (XCom `work_s`)."""
        ran = [ti for ti in self.task_instances() if ti["try_number"] > 0 and ti["start_date"] is not None]
        entries = self._pages(
            "/dags/~/dagRuns/~/taskInstances/~/xcomEntries", "xcom_entries", xcom_key_pattern="work_s"
        )
        total = 0.0
        for entry in entries:
            path = f"/dags/{entry['dag_id']}/dagRuns/{entry['run_id']}/taskInstances/{entry['task_id']}/xcomEntries"
            total += float(self.get(f"{path}/work_s", map_index=entry["map_index"])["value"])
        return len(ran), total


def _log_lines(log: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for entry in log.get("content", []):
        if not isinstance(entry, dict):
            lines += str(entry).splitlines()
            continue
        lines += str(entry.get("event", "")).splitlines()
        for error in entry.get("error_detail") or []:
            lines.append(f"{error.get('exc_type')}: {error.get('exc_value')}")
    return [line for line in lines if not line.startswith("::")]


def wait_until(client: AirflowClient, check: Any, *, what: str, timeout_s: float, alive: Any) -> Any:
    """Poll `check` until it gives something true; a run that fails meanwhile ends the wait with its story."""
    deadline = time.monotonic() + timeout_s
    while True:
        # A failed run is over too: failures are looked for after `check`, which may have taken one for the end.
        found = check()
        alive()
        for run in client.runs():
            if run["state"] == "failed":
                remedy = "Mend the cause and run it again; each step runs alone with `classy STEP`."
                raise ClassyError(f"{client.failed_task(run)}\n  {remedy}")
        if found:
            return found
        if time.monotonic() > deadline:
            open_runs = [
                f"{run['dag_id']} {run['dag_run_id']} {run['state']}"
                for run in client.runs()
                if run["state"] not in DONE
            ]
            raise ClassyError(f"{what}: not within {timeout_s:.0f} s; still open: {', '.join(open_runs) or 'nothing'}")
        time.sleep(0.3)
