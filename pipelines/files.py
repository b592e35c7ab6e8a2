"""Partitions on any fsspec URI: written aside, renamed into place, `manifest.json` last.

A folder without a manifest is not there yet. A reader asks `read_manifest`; a writer uses
`new_partition` and never leaves half of one behind.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipelines.cache import Cache
from pipelines.errors import ClassyError

MANIFEST = "manifest.json"


@dataclass(slots=True)
class Draft:
    """A partition in the making: write files under `folder`, put what readers need into `meta`."""

    folder: Path
    meta: dict[str, Any] = field(default_factory=dict)


def join(root: str, *parts: str) -> str:
    """`root/a/b`, for paths and URIs alike."""
    return "/".join([root.rstrip("/"), *(part.strip("/") for part in parts)])


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_hash(manifest: dict[str, Any]) -> str:
    """SHA-256 over the names and hashes of a partition's files, 64 hex digits."""
    text = json.dumps({name: entry["sha256"] for name, entry in manifest["files"].items()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read_manifest(uri: str) -> dict[str, Any] | None:
    """The manifest of a complete partition, or None where there is none."""
    fs, path = fsspec.url_to_fs(uri)
    try:
        return json.loads(fs.cat_file(f"{path}/{MANIFEST}"))
    except FileNotFoundError:
        return None


def need_manifest(uri: str, made_by: str) -> dict[str, Any]:
    """The manifest of a partition that must be there.

    Raises:
        ClassyError: it is not; the message names the step that makes it.
    """
    manifest = read_manifest(uri)
    if manifest is None:
        raise ClassyError(f"{uri}: no complete partition there; make it with `classy {made_by}`")
    return manifest


def list_partitions(uri: str) -> list[str]:
    """Names of the complete partitions in a folder, sorted; empty where there is no folder."""
    fs, path = fsspec.url_to_fs(uri)
    if not fs.exists(path):
        return []
    names = [entry.rstrip("/").rsplit("/", 1)[-1] for entry in fs.ls(path, detail=False)]
    return sorted(name for name in names if not name.startswith(".") and fs.exists(f"{path}/{name}/{MANIFEST}"))


@dataclass(frozen=True, slots=True)
class Listed:
    """A complete partition as a listing shows it, unopened."""

    stamp: str
    """Another one when the partition is written anew."""
    sizes: dict[str, int]
    """Bytes by name of its files."""


def listing(uri: str) -> dict[str, Listed]:
    """The complete partitions in a folder by name, in one listing however many there are."""
    fs, path = fsspec.url_to_fs(uri)
    fs.invalidate_cache()
    inside: dict[str, dict[str, Any]] = {}
    for place, about in fs.find(path, maxdepth=2, detail=True).items():
        *_, name, file = place.rsplit("/", 2)
        if not name.startswith("."):
            inside.setdefault(name, {})[file] = about
    return {
        name: Listed(str(sorted(map(str, files[MANIFEST].items()))), {file: files[file]["size"] for file in files})
        for name, files in sorted(inside.items())
        if MANIFEST in files
    }


def read_many(uris: list[str]) -> list[bytes | None]:
    """Contents of small files, together where the place can do that; None for one that is not there."""
    if not uris:
        return []
    fs, _ = fsspec.url_to_fs(uris[0])
    paths = [fsspec.url_to_fs(uri)[1] for uri in uris]
    found = fs.cat(paths, on_error="return")
    read = [found[path] for path in paths]
    for one in read:
        if isinstance(one, Exception) and not isinstance(one, FileNotFoundError):
            raise one
    return [one if isinstance(one, bytes) else None for one in read]


def is_local(uri: str) -> bool:
    """Whether a URI is of this machine's own disks."""
    return isinstance(fsspec.url_to_fs(uri)[0], LocalFileSystem)


def local(uri: str, cache: Cache) -> Path:
    """A local folder with the partition's files: itself where it is local, else a copy in the cache.

    The copy is keyed by content, so a changed partition is fetched again. Open it at once: it may make room for
    another some minutes later.
    """
    fs, path = fsspec.url_to_fs(uri)
    if isinstance(fs, LocalFileSystem):
        return Path(path)
    manifest = need_manifest(uri, "gather … (the step that writes it)")

    def fetch(part: Path) -> None:
        part.mkdir()
        for name in manifest["files"]:
            fs.get_file(f"{path}/{name}", str(part / name))
        (part / MANIFEST).write_text(json.dumps(manifest))

    size = sum(entry["bytes"] for entry in manifest["files"].values())
    return cache.entry(f"partitions/{content_hash(manifest)}", size, fetch)


@contextmanager
def new_partition(uri: str) -> Iterator[Draft]:
    """Write a partition whole or not at all.

    Yields a `Draft`; when the block ends without an error its files get a manifest (bytes and SHA-256
    of each, and `meta`) and appear at `uri` at once, in place of what was there. On an error nothing
    is left. Two writers of one partition do not mix: the last to finish stays.

    Raises:
        ClassyError: no space, or no permission, at `uri`.
    """
    fs, path = fsspec.url_to_fs(uri)
    is_local = isinstance(fs, LocalFileSystem)
    try:
        if is_local:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            folder = Path(path).parent / f".{Path(path).name}.{uuid.uuid4().hex}.tmp"
            folder.mkdir()
        else:
            folder = Path(tempfile.mkdtemp(prefix="classy-"))
        try:
            draft = Draft(folder)
            yield draft
            files = {
                str(file.relative_to(folder)): {"bytes": file.stat().st_size, "sha256": sha256_file(file)}
                for file in sorted(folder.rglob("*"))
                if file.is_file()
            }
            text = json.dumps({**draft.meta, "files": files}, indent=1, sort_keys=True, allow_nan=False)
            if is_local:
                (folder / MANIFEST).write_text(text)
                _rename(folder, Path(path))
            else:
                for name in files:
                    fs.pipe_file(f"{path}/{name}", (folder / name).read_bytes())
                fs.pipe_file(f"{path}/{MANIFEST}", text.encode())
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ClassyError(f"{uri}: the disk is full; nothing was kept. Free some space and run it again") from error
        if error.errno in (errno.EACCES, errno.EROFS):
            raise ClassyError(
                f"{uri}: may not be written: {error.strerror}. Check CLASSY_HOME or CLASSY_DATA_ROOT"
            ) from error
        raise


def _rename(source: Path, target: Path) -> None:
    # rename(2) replaces only an empty folder: an older partition is moved aside first, and a writer
    # that got in between simply makes us try again.
    while True:
        try:
            os.rename(source, target)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}.old")
        try:
            os.rename(target, aside)
        except FileNotFoundError:
            continue
        shutil.rmtree(aside, ignore_errors=True)


def write_text(uri: str, text: str) -> None:
    """Write one small file whole or not at all."""
    write_bytes(uri, text.encode())


def write_bytes(uri: str, data: bytes) -> None:
    """Write one file whole or not at all."""
    fs, path = fsspec.url_to_fs(uri)
    if not isinstance(fs, LocalFileSystem):
        fs.pipe_file(path, data)
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        part.write_bytes(data)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
