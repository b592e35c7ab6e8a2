"""The chain of a generation and its history as a person reads them, in a terminal of 80 columns or more."""

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

if TYPE_CHECKING:
    from pipelines.prune import Pruned

STYLES = {"there": "green", "changed": "bold yellow", "gone": "bold red", "unknown": "dim"}
SHORT = 12
"""Digits of a hash that are shown."""
DAYS = 14
"""So many days are shown one by one where all is well; the others are counted."""


def history_table(lines: Iterable[Mapping[str, Any]]) -> Table:
    """A row a generation: since when, by whom, on what evidence, and why."""
    table = Table("gen.", "ver.", "since", "by", "on what evidence, and why", show_lines=True)
    table.columns[2].width = 10
    for column in table.columns[:3]:
        column.no_wrap = True
    for line in lines:
        who = f"{escape(line['by'])}\n[dim]{line['kind']}[/]"
        if line["approved_by"]:
            who += f"\n[dim]approved by[/]\n{escape(line['approved_by'])}"
        if line["canary_version"]:
            who += f"\n[dim]canary {line['canary_version']}, {line['canary_weight']:.0%}[/]"
        if line["shadow_version"]:
            who += f"\n[dim]shadow {line['shadow_version']}[/]"
        since = f"{line['from_data_time'][:10]}\n[dim]{line['from_data_time'][11:16]}[/]"
        table.add_row(str(line["generation"]), line["version"], since, who, _grounds(line))
    return table


def _grounds(line: Mapping[str, Any]) -> str:
    parts = []
    if line["verdict"]:
        against = f" against {line['judged_against']}" if line["judged_against"] else ""
        parts.append(f"[bold]{line['verdict']}[/]{escape(against)}")
    for name in ("golden", "fresh", "drifted"):
        if name in line["accuracy"]:
            parts.append(f"{name} {_accuracy(line['accuracy'][name])}")
    if line["evidence_problem"]:
        parts.append(f"[bold red]{escape(line['evidence_problem'])}[/]")
    parts.append(f"[dim]{escape(_first_sentence(line['reason']))}[/]")
    return "\n".join(parts)


def _accuracy(found: Mapping[str, Any]) -> str:
    """Such as `0.900, +0.100 (+0.050 to +0.150) on 120`."""
    sure = f"({found['low']:+.3f} to {found['high']:+.3f})"
    return f"{found['contender']:.3f}, {found['gain']:+.3f} {sure} on {found['rows']:,}"


def _first_sentence(text: str) -> str:
    return text.split(". ")[0].rstrip(".") + "."


# ------------------------------------------------------------------------------------------------- chain


def chain_tree(found: Mapping[str, Any]) -> Tree:
    """`classy explain`: each link under the one that it explains."""
    until = f" until {_time(found['until_data_time'])}" if found["until_data_time"] else ""
    tree = Tree(
        f"[bold]generation {found['generation']}[/] ({found['kind']} by {escape(found['by'])}), "
        f"serves from {_time(found['since_data_time'])}{until}\n{escape(found['reason'])}"
    )
    for note in found["notes"]:
        tree.add(f"[yellow]{escape(note)}")
    _answers(tree, found)
    version = _link(tree, found["version"], f"version {found['version']['version']}", _aliases(found["version"]))
    version.add(f"[dim]{escape(found['version']['url'])}")
    _verdict(version, found)
    run = _run(version, found["run"])
    _package(run, found["package"])
    _code(run, found)
    _snapshot(run, found)
    states = ", ".join(f"{count} {name}" for name, count in found["states"].items() if count)
    tree.add(f"[bold]links:[/] {states}")
    return tree


def _link(parent: Tree, part: Mapping[str, Any], title: str, *facts: str | None) -> Tree:
    """A branch with the link's state at its end, and under it what is to be said of it."""
    told = ", ".join(escape(fact) for fact in facts if fact)
    branch = parent.add(f"[bold]{escape(title)}[/]{f' {told}' if told else ''}: {_mark(part)}")
    if part["says"]:
        branch.add(f"[{STYLES[part['state']]}]{escape(part['says'])}")
    return branch


def _mark(part: Mapping[str, Any]) -> str:
    return f"[{STYLES[part['state']]}]{'verified' if part['verified'] else part['state']}[/]"


def _time(text: str | None) -> str:
    return "–" if text is None else text[:16].replace("T", " ")


def _short(sha: str | None) -> str:
    return sha[:SHORT] if sha else "–"


def _answers(tree: Tree, found: Mapping[str, Any]) -> None:
    one, answers = found["prediction"], found["predictions"]
    if one is not None:
        branch = tree.add(
            f"[bold]prediction[/] {one['prediction_id'][:SHORT]}: [bold]{escape(one['label'])}[/] "
            f"({one['confidence']:.2f}) for photo {escape(one['image_id'])} of {escape(one['source_id'])}, "
            f"taken {_time(one['captured_at'])} ({one['arm']}, {one['channel']})"
        )
        if one["defaulted"]:
            branch.add("nothing was known about the sender then")
        truth = one["truth"]
        if truth is None:
            branch.add("the truth is not known")
        else:
            says = {True: "[green]right[/]", False: "[red]wrong[/]", None: "rejected by validation"}[one["right"]]
            branch.add(
                f"{says}: {escape(truth['said_by'])} said {escape(truth['label'])}, {_time(truth['labelled_at'])}"
            )
    span = f", taken {_time(answers['first'])} to {_time(answers['last'])}" if answers["count"] else ""
    tree.add(f"[bold]predictions[/] {answers['count']:,}{span}")


def _aliases(version: Mapping[str, Any]) -> str | None:
    return f"({', '.join(version['aliases'])})" if version["aliases"] else None


def _verdict(parent: Tree, found: Mapping[str, Any]) -> None:
    judged = found["judged"]
    against = f"against {judged['against']}" if judged["against"] else None
    branch = _link(parent, judged, f"verdict {judged['verdict'] or '–'}", against, _time(judged["at"]))
    for reason in judged["reasons"]:
        if reason not in found["reason"]:  # which is above
            branch.add(escape(reason))
    if judged["uri"]:
        branch.add(f"[dim]{escape(judged['uri'])} ({_short(judged['sha256'])})")
    approved = found["approved"]
    branch.add(
        f"{approved['action'].lower()} by {escape(approved['by'])}, {_time(approved['at'])}"
        if approved
        else "nobody approved it"
    )
    if (asked := found["asked"]) is not None:
        reason = None if asked["reason"] in found["reason"] else asked["reason"]
        _link(branch, asked, f"asked for by {asked['decision']}", reason)


def _run(parent: Tree, run: Mapping[str, Any]) -> Tree:
    cost = f"{run['cost']:.2f} {run['currency']}" if run["cost"] else None
    seed = f"seed {run['seed']}" if run["seed"] is not None else None
    size = f"{run['weights']:,} weights" if run["weights"] else None
    took = f"{run['seconds']:.0f} s" if run["seconds"] is not None else None
    branch = _link(parent, run, f"run {run['run_id'][:SHORT]}", run["candidate"], seed, size, took, cost)
    branch.add(f"[dim]{escape(run['url'])}, run key {escape(str(run['run_key']))}, {_time(run['started'])}")
    return branch


def _package(parent: Tree, package: Mapping[str, Any]) -> None:
    branch = _link(parent, package, "package", f"SHA-256 {_short(package['sha256'])}")
    for name, where in (("here", "on this machine"), ("in_mlflow", "in MLflow")):
        _link(branch, package[name], where)


def _code(parent: Tree, found: Mapping[str, Any]) -> None:
    code, recipe, features = found["code"], found["recipe"], found["features"]
    dirty = {True: "with changes that were not committed", False: "all committed"}.get(code["dirty_then"])
    _link(parent, code, f"commit {_short(code['commit'])}", dirty)
    _link(parent, recipe, f"recipe {recipe['name'] or '–'}", recipe["hash"])
    _link(parent, features, f"feature service {features['service'] or '–'}", features["hash"])


def _snapshot(parent: Tree, found: Mapping[str, Any]) -> None:
    snapshot, days = found["snapshot"], found["partitions"]
    counts = ", ".join(f"{count:,} {name}" for name, count in (snapshot["counts"] or {}).items())
    branch = _link(
        parent, snapshot, f"snapshot {snapshot['id'] or '–'}", f"as of {_time(snapshot['as_of'])}", counts or None
    )
    if snapshot["uri"]:
        branch.add(f"[dim]{escape(snapshot['uri'])}")
    good = [day for day in days if all(day[part]["state"] == "there" for part in ("shard", "clean", "raw"))]
    hidden = {day["day"] for day in good[DAYS // 2 : -(DAYS // 2)]} if len(good) > DAYS else set()
    for day in days:
        if day["day"] not in hidden:
            branch.add(_day(day))
    if hidden:
        branch.add(f"[dim]and {len(hidden)} more days that are all there: --json lists them")


def _day(day: Mapping[str, Any]) -> Tree:
    parts = []
    for name in ("shard", "clean", "raw"):
        parts.append(f"{name} {_short(day[name]['hash'])[:8]} {_mark(day[name])}")
    tree = Tree(f"[bold]{day['day']}[/]: " + " ← ".join(parts))
    for name in ("shard", "clean", "raw"):
        if day[name]["state"] != "there" and day[name]["says"]:
            tree.add(f"{name}: {escape(day[name]['says'])}")
    return tree


# ------------------------------------------------------------------------------------------------- prune


def prune_table(found: "Pruned") -> Group:
    """What goes, what stays and for whom, and what it comes to."""
    table = Table("what", "name", "days", "size", "", "why")
    table.columns[1].overflow = "fold"
    for items, word in ((found.goes, "[red]deleted[/]" if found.deleted else "[red]goes[/]"), (found.stays, "stays")):
        for item in items:
            age = "–" if item.age_days is None else f"{item.age_days:.0f}"
            name = re.sub(r"[0-9a-f]{20,}", lambda digits: f"{digits[0][:SHORT]}…", item.name)
            table.add_row(item.what, escape(name), age, _bytes(item.bytes), word, escape(item.why))
    words = f"{len(found.goes)} of {len(found.goes) + len(found.stays)} {'went' if found.deleted else 'may go'}"
    last = f"{words}, {_bytes(found.bytes)}; older than {found.older_than_days} days."
    if not found.deleted:
        last += " Nothing was deleted: --yes deletes." if found.goes else ""
    elif found.receipt_uri:
        last += f" Receipt: {escape(found.receipt_uri)}"
    return Group(table, last)


def _bytes(size: int | None) -> str:
    if size is None:
        return "–"
    shown = float(size)
    for unit in ("B", "KB", "MB", "GB"):
        if shown < 1000:
            return f"{shown:.0f} {unit}" if unit == "B" else f"{shown:.1f} {unit}"
        shown /= 1000
    return f"{shown:.1f} TB"
