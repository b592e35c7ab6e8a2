"""Let good photos and labels of one raw day through, and put the others into quarantine with a reason.

    classy validate --raw-uri var/data/raw/date=2026-03-01

A bad record is quarantined. A bad day (its tables are not as they should be, too few photos, too many bad
ones, one class swallows the labels) is a verdict: `ok` is false, nothing of it is let through, and the flow
stops. A photo whose label is rejected stays, without a label.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
from tqdm import tqdm

from monitoring.stores import open_store
from pipelines.cache import cache_of
from pipelines.data.checks import Checked, Said, Seen, check_labels, check_photos, table_problems
from pipelines.data.images import spec_of
from pipelines.data.labels import judge_labels
from pipelines.data.records import CLEAN, QUARANTINE, write_rows
from pipelines.errors import ClassyError
from pipelines.files import content_hash, join, list_partitions, local, need_manifest, new_partition
from pipelines.recipe import Recipe
from pipelines.settings import Settings

_ENOUGH_LABELS = 30  # below this a day's class mix says nothing


@dataclass(frozen=True, kw_only=True, slots=True)
class Validated:
    """The verdict on a day. `kept` photos went through (none when not `ok`); `quarantined` photos and labels did not.

    `by_reason` counts the quarantined by their reason; `reasons` say why a day is not ok.
    """

    clean_uri: str
    day: str
    ok: bool
    reasons: list[str]
    kept: int
    quarantined: int
    by_reason: dict[str, int]


def run(settings: Settings, recipe: Recipe, *, raw_uri: str) -> Validated:
    """Write quarantine/date=D and clean/date=D, and mark the rejected labels in the ground truth.

    Duplicates are looked for within the day and among the clean photos of earlier days.

    Raises:
        ClassyError: there is no complete raw partition at `raw_uri`.
    """
    day = _day_of(raw_uri)
    store = open_store(settings.database_url)  # first: a database that cannot be used must leave no partition
    folder = local(raw_uri, cache_of(settings))
    reasons = table_problems(folder, day)
    photos: list[Checked] = []
    labels: list[Said] = []
    if not reasons:
        photos = _photos(settings, recipe, folder / "records.parquet", day)
        labels = check_labels(pq.read_table(folder / "labels.parquet").to_pylist(), recipe)
        labels, collapsed = _class_mix(labels, recipe)
        reasons = [*_photo_reasons(photos, recipe), *collapsed]
    judge_labels(store, {said.image_id: (said.labelled_at, said.reason) for said in labels})
    return _write(settings, raw_uri, day, reasons, photos, labels)


def _day_of(raw_uri: str) -> date:
    manifest = need_manifest(raw_uri, "gather --day DAY")
    try:
        return date.fromisoformat(manifest["day"])
    except (KeyError, TypeError, ValueError) as error:
        raise ClassyError(f"{raw_uri}/manifest.json: its field day = {manifest.get('day')!r} is no date") from error


def _photos(settings: Settings, recipe: Recipe, table: Path, day: date) -> list[Checked]:
    seen = Seen(_history(settings, day), recipe.validation.near_duplicate_bits)
    threads = settings.cores
    total = pq.read_metadata(table).num_rows
    checked = tqdm(
        check_photos(table, spec_of(recipe), threads), total=total, desc=f"validate {day}", unit="photo", disable=None
    )
    return [photo if photo.reason else seen.place(photo) for photo in checked]


def _history(settings: Settings, day: date) -> pd.DataFrame:
    """Clean photos of the days before `day`, oldest first: image_id, sha256, phash, group_id."""
    columns = ["image_id", "sha256", "phash", "group_id"]
    root = join(settings.data_root, "clean")
    earlier = [name for name in list_partitions(root) if name < f"date={day}"]
    cache = cache_of(settings)
    frames = [
        pq.read_table(local(join(root, name), cache) / "records.parquet", columns=columns).to_pandas()
        for name in earlier
    ]
    frames = [frame for frame in frames if len(frame)]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def _photo_reasons(photos: Sequence[Checked], recipe: Recipe) -> list[str]:
    rules = recipe.validation
    bad = Counter(photo.reason for photo in photos if photo.reason)
    good = len(photos) - bad.total()
    found = []
    if good < rules.min_records:
        what = f"{good} good photos of {len(photos)}" if photos else "empty: no photos came"
        found.append(f"{what}; at least {rules.min_records} are needed (validation.min_records)")
    share = bad.total() / len(photos) if photos else 0.0
    if share > rules.max_bad_share:
        most = ", ".join(f"{count} {reason}" for reason, count in bad.most_common(3))
        found.append(
            f"{share:.0%} of {len(photos)} photos are bad ({most}); at most {rules.max_bad_share:.0%} may be "
            "(validation.max_bad_share)"
        )
    return found


def _class_mix(labels: Sequence[Said], recipe: Recipe) -> tuple[list[Said], list[str]]:
    """A feed that says one class only is broken: its labels are rejected, and the day stops."""
    known = Counter(said.label for said in labels if said.label is not None)
    if known.total() < _ENOUGH_LABELS:
        return list(labels), []
    commonest, count = known.most_common(1)[0]
    share, limit = count / known.total(), recipe.validation.max_class_share
    if share <= limit:
        return list(labels), []
    reason = (
        f"class mix collapsed: {commonest!r} is {share:.0%} of {known.total()} labels; at most {limit:.0%} may be "
        "(validation.max_class_share)"
    )
    detail = f"all labels of a day on which {commonest!r} is {share:.0%} of them"
    judged = [
        said
        if said.reason
        else Said(image_id=said.image_id, labelled_at=said.labelled_at, label=None, reason="class_mix", detail=detail)
        for said in labels
    ]
    return judged, [reason]


def _write(
    settings: Settings, raw_uri: str, day: date, reasons: list[str], photos: Sequence[Checked], labels: Sequence[Said]
) -> Validated:
    senders = {photo.image_id: photo.source_id for photo in photos}
    bad = [
        {"image_id": p.image_id, "source_id": p.source_id, "what": "photo", "reason": p.reason, "detail": p.detail}
        for p in photos
        if p.reason
    ]
    # The sender of a photo of an earlier day is not in this partition.
    bad += [
        {
            "image_id": said.image_id,
            "source_id": senders.get(said.image_id, ""),
            "what": "label",
            "reason": said.reason,
            "detail": said.detail,
        }
        for said in labels
        if said.reason
    ]
    kept = [] if reasons else [{name: getattr(p, name) for name in CLEAN.names} for p in photos if not p.reason]
    validated = Validated(
        clean_uri=join(settings.data_root, "clean", f"date={day}"),
        day=str(day),
        ok=not reasons,
        reasons=reasons,
        kept=len(kept),
        quarantined=len(bad),
        by_reason=dict(sorted(Counter(str(row["reason"]) for row in bad).items())),
    )
    with new_partition(join(settings.data_root, "quarantine", f"date={day}")) as draft:
        write_rows(draft.folder / "records.parquet", QUARANTINE, bad)
        draft.meta.update(day=str(day), raw_uri=raw_uri, by_reason=validated.by_reason)
    with new_partition(validated.clean_uri) as draft:
        write_rows(draft.folder / "records.parquet", CLEAN, kept)
        draft.meta.update(
            day=str(day),
            raw_uri=raw_uri,
            raw_hash=content_hash(need_manifest(raw_uri, "gather --day DAY")),
            ok=validated.ok,
            reasons=validated.reasons,
            kept=validated.kept,
            quarantined=validated.quarantined,
            by_reason=validated.by_reason,
        )
    return validated
