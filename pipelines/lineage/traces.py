"""Whether what a record names is still there, and still the same.

Each look gives plain data with a `state`: `there`, `gone`, `changed`, or `unknown` where it could not be looked at.
`verified` says that the bytes were compared with a hash that was recorded when they were used. Nothing here raises:
what could not be read is said in `says`.
"""

import hashlib
import json
import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from tqdm import tqdm

from pipelines import files
from pipelines.recipe import ROOT

THERE, GONE, CHANGED, UNKNOWN = "there", "gone", "changed", "unknown"
T = TypeVar("T")


def trace(state: str, says: str | None = None, *, verified: bool = False, **facts: Any) -> dict[str, Any]:
    """One look: state and sentence first, then the facts."""
    return {"state": state, "verified": verified, "says": says, **facts}


def ask(question: Callable[[], T]) -> tuple[T | None, str | None]:
    """The answer, or why there is none.

    For reading only: what explains a model a year later shows all that is left, whatever store is gone.
    """
    try:
        return question(), None
    except Exception as error:  # noqa: BLE001  object stores, MLflow and databases share no narrower base
        return None, " ".join(str(error).split()) or type(error).__name__


# ------------------------------------------------------------------------------------------------ files


def evidence(uri: str | None, recorded: str | None) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """A look at a judgement's document, and the document where its SHA-256 is the recorded one."""
    if uri is None:
        return trace(UNKNOWN, "no evidence is recorded", uri=None, sha256=None), None
    facts: dict[str, Any] = {"uri": uri, "sha256": recorded}
    fs, path = fsspec.url_to_fs(uri)
    data, problem = ask(lambda: fs.cat_file(path) if fs.exists(path) else b"")
    if data is None:
        return trace(UNKNOWN, f"cannot be read: {problem}", **facts), None
    if not data:
        return trace(GONE, "the evidence is gone", **facts), None
    found = hashlib.sha256(data).hexdigest()
    if recorded is not None and found != recorded:
        return trace(CHANGED, f"its SHA-256 is {found}: it was changed after the verdict", **facts), None
    return trace(THERE, verified=recorded is not None, **facts), json.loads(data)


def partition(uri: str | None, recorded: str | None, *, quick: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
    """A look at a partition, and its manifest ({} where there is none).

    Args:
        uri: None where no record names it.
        recorded: its content hash when it was used, where that was recorded.
        quick: believe the manifest's hashes; else every file is read and hashed.
    """
    facts: dict[str, Any] = {"uri": uri, "hash": None, "recorded_hash": recorded}
    if uri is None:
        return trace(UNKNOWN, "no record names it", **facts), {}
    manifest, problem = ask(lambda: files.read_manifest(uri))
    if manifest is None:
        return trace(UNKNOWN, f"cannot be read: {problem}", **facts) if problem else trace(GONE, **facts), {}
    facts["hash"] = found = files.content_hash(manifest)
    facts["bytes"] = sum(entry["bytes"] for entry in manifest["files"].values())
    facts["files"] = len(manifest["files"])
    if recorded is not None and found != recorded:
        return trace(CHANGED, "it was made again since, with other content", **facts), manifest
    if not quick:
        damage, problem = ask(lambda: _damage(uri, manifest))
        if problem is not None:
            return trace(UNKNOWN, f"cannot be read: {problem}", **facts), manifest
        if damage:
            return trace(CHANGED, damage, **facts), manifest
    if recorded is None:
        unsure = "its hash was not recorded when it was used, so that nobody can tell whether it is the same"
        return trace(THERE, unsure, **facts), manifest
    return trace(THERE, verified=not quick, **facts), manifest


def _damage(uri: str, manifest: dict[str, Any]) -> str | None:
    """What is not as the partition's own manifest says, or None."""
    fs, path = fsspec.url_to_fs(uri)
    for name, entry in manifest["files"].items():
        if not fs.exists(f"{path}/{name}"):
            return f"its file {name} is gone"
        with fs.open(f"{path}/{name}", "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
                return f"its file {name} has other bytes than its manifest says"
    return None


# --------------------------------------------------------------------------------------------- packages


def package(folder: Path, recorded: str | None) -> dict[str, Any]:
    """A look at a fetched model package: every file against its manifest, the manifest against the record."""
    from serving.runtime import ModelError, verify

    facts: dict[str, Any] = {"uri": str(folder)}
    if not folder.is_dir():
        return trace(GONE, **facts)
    try:
        found = verify(folder)
    except (ModelError, OSError) as error:
        return trace(CHANGED, str(error), **facts)
    if recorded is None:
        return trace(THERE, "its SHA-256 was not recorded", **facts)
    if found != recorded:
        return trace(CHANGED, f"its manifest has SHA-256 {found}", **facts)
    return trace(THERE, verified=True, **facts)


def logged_package(artifact_uri: str, recorded: str | None, *, quick: bool) -> dict[str, Any]:
    """The same for the package in MLflow's artifact store; fetched aside unless `quick`.

    Args:
        artifact_uri: folder of the package.
    """
    import mlflow

    facts: dict[str, Any] = {"uri": artifact_uri}
    found, problem = ask(lambda: mlflow.artifacts.list_artifacts(artifact_uri=artifact_uri))
    if problem is not None:
        return trace(UNKNOWN, f"cannot be read: {problem}", **facts)
    if not found:
        return trace(GONE, **facts)
    if quick:
        return trace(THERE, **facts)
    with tempfile.TemporaryDirectory(prefix="classy-explain-") as scratch:
        fetched, problem = ask(lambda: mlflow.artifacts.download_artifacts(artifact_uri=artifact_uri, dst_path=scratch))
        if fetched is None:
            return trace(UNKNOWN, f"cannot be fetched: {problem}", **facts)
        return {**package(Path(fetched), recorded), **facts}


# ------------------------------------------------------------------------------------------------- code


def commit(sha: str | None, dirty: str | None, root: Path = ROOT) -> dict[str, Any]:
    """A look at the commit that a model was trained with.

    Args:
        dirty: what the run recorded of changes that were not committed: `true`, `false`, or None where it did not.
    """
    facts: dict[str, Any] = {"commit": sha, "dirty_then": {"true": True, "false": False}.get(str(dirty).lower())}
    if sha is None:
        return trace(UNKNOWN, "no commit is recorded: it was no git checkout", **facts)
    head = _git(root, "rev-parse", "HEAD")
    if head is None:
        return trace(UNKNOWN, f"{root} is no git checkout", **facts)
    facts |= {"head": head, "dirty_now": bool(_git(root, "status", "--porcelain")), "repository": _repository(root)}
    if _git(root, "cat-file", "-e", f"{sha}^{{commit}}") is None:
        return trace(GONE, f"{root} does not have it; fetch it from where the team keeps its code", **facts)
    since = _git(root, "rev-list", "--count", f"{sha}..{head}")
    plural = "" if since == "1" else "s"
    says = None if sha == head else f"{since} commit{plural} before this checkout's HEAD"
    return trace(THERE, says, verified=True, **facts)


def _repository(root: Path) -> str | None:
    """The page of `origin`, without who may read it; None where it has none."""
    origin = _git(root, "remote", "get-url", "origin") or ""
    found = re.fullmatch(r"(?:https?://|ssh://|git@)(?:[^@/]+@)?([^/:]+)(?::\d+)?[/:](.+?)(?:\.git)?/?", origin)
    return f"https://{found[1]}/{found[2]}" if found else None


def _git(root: Path, *arguments: str) -> str | None:
    """What git says, or None where it says no."""
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def progress(uris: list[str], quick: bool) -> "tqdm[str]":
    """Over partitions that are read whole: a bar where somebody watches."""
    return tqdm(uris, desc="checking", unit="partition", disable=quick or None, leave=False)
