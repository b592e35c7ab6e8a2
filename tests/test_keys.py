"""API keys: how one looks, what is kept of it, and that people make, list and revoke them."""

import json
import logging
import os
import stat
import threading
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st
from typer.testing import CliRunner

from monitoring import keys as table
from monitoring.stores import open_store
from pipelines.commands.keys import app
from pipelines.errors import ClassyError
from pipelines.online import keys
from pipelines.settings import Settings
from serving.access.keys import ALPHABET, SECRET_LETTERS, hash_secret, new_key, same_secret, split_key

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY, KEY_ID, KEPT = new_key()


def run(settings: Settings, *words: str) -> str:
    """What `classy keys …` prints."""
    environment = {"CLASSY_HOME": str(settings.home), "CLASSY_DATABASE_URL": settings.database_url}
    answer = CliRunner().invoke(app, list(words), env=environment)
    if answer.exception is not None:
        raise answer.exception
    return answer.output


# ------------------------------------------------------------------------------------------------- its form


def test_a_key_is_whole_and_its_secret_fits_what_is_kept() -> None:
    parts = split_key(KEY)
    assert parts is not None
    assert parts[0] == KEY_ID
    assert same_secret(parts[1], KEPT)
    assert hash_secret(parts[1]) == KEPT
    assert len(KEPT) == 64


def test_a_secret_has_at_least_160_bits() -> None:
    assert len(ALPHABET) ** SECRET_LETTERS >= 2**160
    assert len({new_key()[0] for _ in range(200)}) == 200


@given(st.integers(0, len(KEY) - 1), st.characters())
@budget(max_examples=200, deadline=None)
def test_a_key_with_one_other_letter_is_no_key(place: int, letter: str) -> None:
    changed = KEY[:place] + letter + KEY[place + 1 :]
    assert changed == KEY or split_key(changed) is None


@given(st.text() | st.text(alphabet=ALPHABET + "_").map(lambda text: f"classy_{text}"))
@budget(max_examples=200, deadline=None)
def test_no_text_that_was_not_made_here_is_a_key(text: str) -> None:
    assert split_key(text) is None


@given(st.text(alphabet=ALPHABET, min_size=39, max_size=39))
@budget(max_examples=100, deadline=None)
def test_another_secret_never_fits(secret: str) -> None:
    assert not same_secret(secret, KEPT)


# ---------------------------------------------------------------------------------------------- the tables


def test_a_key_is_made_listed_and_revoked(settings: Settings, database_url: str) -> None:
    made = keys.create(
        settings, name="shop – “app”", scopes=["truth", "infer"], rate="50/second", daily_quota=1000, expires_days=30,
        now=NOW,
    )  # fmt: skip
    (row,) = keys.listed(settings, now=NOW)
    assert (row["key_id"], row["state"], row["scopes"]) == (made.key_id, "active", ["infer", "truth"])
    assert (row["created_by"], row["expires_at"]) == ("tester", NOW + timedelta(days=30))
    assert keys.listed(settings, now=NOW + timedelta(days=30))[0]["state"] == "expired"
    keys.revoke(settings, made.key_id, now=NOW)
    keys.revoke(settings, made.key, now=NOW + timedelta(days=1))  # a person who pastes the key itself
    assert keys.listed(settings, now=NOW)[0]["state"] == "revoked"
    (kept,) = table.keys(open_store(settings.database_url))
    assert kept["revoked_at"] == NOW
    assert made.key not in json.dumps(kept, default=str)
    assert made.key.rpartition("_")[2] not in json.dumps(kept, default=str)


def test_the_servers_view_changes_when_a_key_is_made_or_revoked(settings: Settings, database_url: str) -> None:
    view = keys.SqlKeys(database_url, clock=lambda: 0.0)
    empty = view.read("")
    assert empty is not None
    assert empty[1] == []
    assert view.read(empty[0]) is None
    made = keys.create(settings, name="a", scopes=["infer"], now=NOW)
    keys.create(settings, name="b", scopes=["infer"], now=NOW)
    one = view.read(empty[0])
    assert one is not None
    assert sorted(key.name for key in one[1]) == ["a", "b"]
    # Revoked by a machine whose clock is behind.
    keys.revoke(settings, made.key_id, now=NOW - timedelta(days=1))
    two = view.read(one[0])
    assert two is not None
    assert {key.name: key.revoked_at for key in two[1]} == {"a": NOW - timedelta(days=1), "b": None}


def test_what_several_processes_add_to_a_day_is_all_there(settings: Settings, database_url: str) -> None:
    views = [keys.SqlKeys(database_url) for _ in range(4)]

    def add(view: keys.SqlKeys, turn: int) -> None:
        for _ in range(10):
            rows = [("a", "2026-03-01", 1), ("b", "2026-03-01", 2)]
            view.add_usage(rows if turn % 2 else rows[::-1])

    threads = [threading.Thread(target=add, args=(view, turn)) for turn, view in enumerate(views)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert views[0].usage("2026-03-01") == {"a": 40, "b": 80}
    assert views[0].usage("2026-03-02") == {}


# ----------------------------------------------------------------------------------------- the command line


def test_the_commands_make_list_and_revoke_a_key(settings: Settings) -> None:
    shown = run(settings, "create", "--name", "shop", "--scope", "infer", "--scope", "truth", "--rate", "5/second")
    key = shown.split()[0]
    parts = split_key(key)
    assert parts is not None
    table_text = run(settings, "list")
    assert parts[0] in table_text
    assert parts[1] not in table_text
    made = json.loads(run(settings, "create", "--name", "other", "--daily-quota", "10", "--json"))
    assert made["scopes"] == ["infer"]
    assert json.loads(run(settings, "revoke", parts[0], "--json")) == {"key_id": parts[0], "state": "revoked"}
    states = {row["name"]: row["state"] for row in json.loads(run(settings, "list", "--json"))}
    assert states == {"shop": "revoked", "other": "active"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--name", "x", "--rate", "fast"], "--rate 'fast' is no rate; write it as 100/second"),
        (["--name", "x", "--rate", "0/second"], "--rate '0/second' is no rate"),
        (["--name", "x", "--scope", "root"], "--scope 'root': there is no such scope; there are infer, truth, admin"),
        (["--name", "x", "--daily-quota", "0"], "--daily-quota 0: must be 1 or more photos"),
        (["--name", "x", "--expires-days", "-1"], "--expires-days -1: must be 1 to 3650"),
        (["--name", ""], "--name '': must be 1 to 80 letters"),
        (["--name", "a\nb"], "--name 'a\\nb': must be"),
    ],
)
def test_a_wrong_option_names_itself_and_the_remedy(settings: Settings, words: list[str], says: str) -> None:
    with pytest.raises(ClassyError) as error:
        run(settings, "create", *words)
    assert says in str(error.value)
    assert keys.listed(settings, now=NOW) == []


def test_revoking_a_key_that_is_not_there_says_where_to_look_and_shows_no_secret(settings: Settings) -> None:
    with pytest.raises(ClassyError, match=r"key 'nobody': there is no such key; `classy keys list`"):
        run(settings, "revoke", "nobody")
    with pytest.raises(ClassyError) as error:
        run(settings, "revoke", KEY)
    assert KEY_ID in str(error.value)
    assert KEY.rpartition("_")[2] not in str(error.value)


# ------------------------------------------------------------------------------------------ this machine's


def test_the_first_key_is_made_once_and_only_its_owner_reads_it(settings: Settings) -> None:
    before = os.umask(0)
    try:
        key = keys.first_key(settings)
    finally:
        os.umask(before)
    assert key == keys.first_key(settings) == keys.read_local_key(settings)
    file = keys.local_key_file(settings)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [row["name"] for row in keys.listed(settings, now=NOW)] == ["local"]
    assert list(file.parent.iterdir()) == [file]
    file.chmod(0o644)
    assert keys.first_key(settings) == key
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_first_key_that_is_revoked_or_unknown_is_replaced(settings: Settings) -> None:
    key = keys.first_key(settings)
    assert key is not None
    keys.revoke(settings, key, now=NOW)
    second = keys.first_key(settings)
    assert second != key
    keys.local_key_file(settings).write_text("garbage\n")
    assert keys.first_key(settings) not in (key, second, None)


def test_without_access_control_there_is_no_first_key(settings: Settings) -> None:
    open_settings = settings.model_copy(update={"auth": "off"})
    assert keys.first_key(open_settings) is None
    assert keys.read_local_key(open_settings) is None


def test_a_key_is_in_no_log_and_in_no_repr(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        made = keys.create(settings, name="shop", scopes=["infer"], now=NOW)
        first = keys.first_key(settings)
    assert first is not None
    said = caplog.text + repr(made) + str(made)
    for key in (made.key, first):
        assert key.rpartition("_")[2] not in said
