"""Where Classy runs: folders, addresses, device. Read once at the door from `CLASSY_*`, passed by hand.

What it runs is the recipe's (`pipelines/recipe.py`). Only the defaults for one machine live here.
"""

import getpass
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipelines.errors import ClassyError


class Settings(BaseSettings):
    """Every field is an environment variable: `home` is `CLASSY_HOME`, and so on."""

    model_config = SettingsConfigDict(env_prefix="CLASSY_", frozen=True, env_ignore_empty=True)

    home: Path = Path("var")
    """Folder of all state that is not given an address of its own below."""
    recipe: str = "digits"
    """Name of a file in `recipes/` (without .toml) or a path to one."""
    data_root: str = ""
    """Any fsspec URI: raw records, shards, snapshots, reports. Default: HOME/data."""
    database_url: str = ""
    """SQLAlchemy URL of Classy's own tables. Default: SQLite at HOME/classy.db."""
    mlflow_uri: str = ""
    """MLflow tracking and registry. Default: SQLite at HOME/mlflow/mlflow.db, no server."""
    features_root: str = ""
    """Feast's registry and online store. Default: HOME/features."""
    model_name: str = "classy"
    """The registered model: people load `models:/classy@champion`."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where training runs; `auto` takes CUDA where there is one."""
    threads: int = Field(default=0, ge=0)
    """Threads of one training or scoring process; 0 means one for each core."""
    cache_gb: float = Field(default=20.0, gt=0)
    """Copies in HOME/cache of partitions that are elsewhere and of photos to decode, in GB (10^9 bytes) at most; a
    snapshot whose pictures take more than half of it is read row by row, and half as much again may be kept of it."""
    train_workers: int = Field(default=1, ge=1, le=1024)
    """Processes that share each batch of a training; 1 is this process, without any other."""
    train_ray: str = ""
    """Address of a Ray cluster that they run on; `local`: one of this machine; empty: this machine, without Ray."""
    train_restarts: int = Field(default=3, ge=0, le=1000)
    """How often they are brought back after one of them died, before the training is given up."""
    actor: str = ""
    """Who acts, for the ledger. Default: the login name."""
    training_pool: str = "default_pool"
    """Airflow pool of the training tasks; give it as many slots as there are GPUs."""
    notify: str = "log"
    """Where Airflow says that an incident began or got worse, by commas: `log`, `webhook:CONNECTION` (an HTTP
    connection of Airflow's; Slack's incoming webhooks take it too), `smtp:CONNECTION:somebody@example.org`."""
    schedule: str = "@daily"
    """Schedule of the data DAG; `none` leaves it to a trigger (a replay driven day by day)."""

    host: str = "127.0.0.1"
    """Address that the server listens on."""
    rest_port: int = Field(default=8000, ge=0, le=65535)
    """REST, the page and the metrics; 0 takes any free one."""
    grpc_port: int = Field(default=8001, ge=0, le=65535)
    """gRPC; 0 takes any free one."""
    workers: int = Field(default=1, ge=1, le=256)
    """Server processes that share the two ports."""
    auth: Literal["on", "off"] = "on"
    """Access control of the server; `off` lets everybody do everything and is for a machine of one's own."""
    jwt_issuer: str = ""
    """Who issues tokens that are taken beside API keys; empty: none are."""
    jwt_audience: str = "classy"
    """What a token must be meant for."""
    jwt_jwks: str = ""
    """URL or file of the issuer's public keys (JWKS)."""
    limits_url: str = "memory://"
    """Where rates are counted: memory (each process its share), or redis://…"""
    tls_cert: str = ""
    """File of the certificate (PEM); with `tls_key`, both ports speak TLS."""
    tls_key: str = ""
    """File of its private key."""
    pages_url: str = Field(default="", pattern=r"^(https?://.+)?$")
    """Where people reach the server's pages, for links from Airflow and MLflow: `https://classy.example.org`. Default:
    this machine, at `rest_port`."""
    hops: str = ""
    """Where components in other processes are: `classifier=grpc://host:8001,preprocessor=http://host:8000`."""
    runtime: Literal["auto", "openvino", "onnxruntime"] = "auto"
    """What runs a model in the server and in scoring; `auto` picks by the machine and the model's card."""

    @property
    def cores(self) -> int:
        """Threads of work that fills a core each: `threads`, or one for each core this process may run on."""
        if self.threads:
            return self.threads
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    @field_validator("home", mode="after")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().resolve()

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, given: dict[str, Any]) -> dict[str, Any]:
        home = Path(given.get("home") or "var").expanduser().resolve()
        fallback = {
            "data_root": str(home / "data"),
            "database_url": f"sqlite:///{home / 'classy.db'}",
            "mlflow_uri": f"sqlite:///{home / 'mlflow' / 'mlflow.db'}",
            "features_root": str(home / "features"),
            "actor": getpass.getuser(),
        }
        return {**given, **{key: given.get(key) or value for key, value in fallback.items()}}

    @property
    def mlflow_artifacts(self) -> str:
        """Where a server-less MLflow keeps artifacts; a server keeps its own."""
        return str(self.home / "mlflow" / "artifacts")


def load_settings(**given: object) -> Settings:
    """Settings from the environment, with `given` on top.

    Raises:
        ClassyError: a value is not allowed; the message names the variable.
    """
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        lines = [
            f"CLASSY_{'.'.join(str(part) for part in problem['loc']).upper()}={problem['input']!r}: {problem['msg']}"
            for problem in error.errors()
        ]
        raise ClassyError("settings: " + "; ".join(lines)) from None
