"""Accounts, sessions, invites and the limit on wrong tries, on a real SQLite file and a real PostgreSQL server."""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import argon2
import pytest
import sqlalchemy as sa

from annotation.accounts import Accounts, InvalidSetting, LastManager, NameTaken, UnknownAccount
from annotation.invites import InvalidInvite, Invites
from annotation.passwords import InvalidPassword, Passwords, check_password
from annotation.records import Judgment, Said
from annotation.sessions import (
    IDLE_SECONDS,
    MAX_TRIES,
    SESSION_SECONDS,
    STEP_SECONDS,
    TRIES_SECONDS,
    AccountClosed,
    PasswordNeeded,
    Sessions,
    TooManyTries,
    WrongPassword,
    address_key,
)
from annotation.store import Store, StoreUnavailable
from annotation.tables import annotator, audit, campaign, invite, judgment, login_failure, member, session, slot

WORDS = "seven brown lamps in rain"
OTHER_WORDS = "a slow tram to the sea"
QUICK = Passwords(time_cost=1, memory_kib=64, parallelism=1)


@pytest.fixture
def accounts(store: Store, clock) -> Accounts:
    """With passwords required."""
    return Accounts(store, passwords_required=True, passwords=QUICK, clock=clock)


@pytest.fixture
def sessions(accounts: Accounts) -> Sessions:
    return Sessions(accounts)


@pytest.fixture
def invites(sessions: Sessions) -> Invites:
    return Invites(sessions)


@pytest.fixture
def by_name(store: Store, clock) -> Sessions:
    """In the open mode."""
    return Sessions(Accounts(store, passwords=QUICK, clock=clock))


def outcome(action: Callable[[], Any]) -> str:
    """The name of the error, or done; a store that is busy is asked again, as a person would."""
    while True:
        try:
            action()
            return "done"
        except StoreUnavailable:
            continue
        except ValueError as error:
            return type(error).__name__


def at_once(actions: list[Callable[[], Any]]) -> Counter[str]:
    """The outcomes of actions that begin together, each in a thread of its own."""
    barrier = threading.Barrier(len(actions))
    found: list[str] = []

    def run(action: Callable[[], Any]) -> None:
        barrier.wait()
        found.append(outcome(action))

    threads = [threading.Thread(target=run, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Counter(found)


def column(store: Store, wanted: sa.Column) -> list[Any]:
    with store.reading() as connection:
        return list(connection.execute(sa.select(wanted)).scalars())


# ---- passwords ------------------------------------------------------------------------------------------------


def test_a_password_is_kept_as_argon2id_and_nowhere_as_it_is(store: Store, accounts: Accounts) -> None:
    accounts.add("Ada", "annotator", WORDS, by=None)
    (kept,) = column(store, annotator.c.password_hash)
    assert kept.startswith("$argon2id$v=19$m=64,t=1,p=1$")
    assert argon2.PasswordHasher().verify(kept, WORDS)
    for table in ("annotator", "session", "audit", "login_failure"):
        with store.reading() as connection:
            assert WORDS not in str(connection.execute(sa.text(f"SELECT * FROM {table}")).all())


def test_a_hash_made_with_older_parameters_is_made_anew_at_the_next_sign_in(store: Store, accounts: Accounts) -> None:
    accounts.add("Ada", "annotator", WORDS, by=None)
    stronger = Passwords(time_cost=2, memory_kib=128, parallelism=1)
    later = Sessions(Accounts(store, passwords_required=True, passwords=stronger, clock=accounts.clock))
    later.sign_in("Ada", WORDS)
    (kept,) = column(store, annotator.c.password_hash)
    assert kept.startswith("$argon2id$v=19$m=128,t=2,p=1$")
    assert later.annotator_of(later.sign_in("Ada", WORDS)).name == "Ada"
    assert column(store, annotator.c.password_hash) == [kept]


def test_an_unknown_name_takes_as_long_as_a_wrong_password() -> None:
    """In processor time of this thread: others may be busy."""
    slow = Passwords(time_cost=2, memory_kib=16384, parallelism=1)
    kept = slow.hash(WORDS)

    def seconds(of: str | None) -> float:
        start = time.thread_time()
        assert not slow.verify(of, OTHER_WORDS)
        return time.thread_time() - start

    known, unknown = (min(seconds(of) for _ in range(5)) for of in (kept, None))
    assert known / 2 < unknown < known * 2


def test_what_a_keyboard_writes_otherwise_is_the_same_password(accounts: Accounts, sessions: Sessions) -> None:
    accounts.add("Ada", "annotator", "cafe\u0301 ﬁfteen lamps", by=None)
    sessions.sign_in("Ada", "caf\u00e9 fifteen lamps")


@pytest.mark.parametrize(
    "password, words",
    [
        ("elevenchars", "12 to 1024"),
        ("e" * 1025, "12 to 1024"),
        ("Ada Lovelace", "the name itself"),
        ("adalovelace1815!", "the name itself"),
        ("adalovelaceadalovelace", "the name itself"),
        ("password1234", "tried first"),
        ("P@ssw0rd2024!", "tried first"),
        ("Password Password", "tried first"),
        ("123456789012", "tried first"),
        ("9876543210987", "tried first"),
        ("aaaaaaaaaaaa", "tried first"),
        ("abababababab", "tried first"),
        ("qwertyuiop123", "tried first"),
        ("correct horse battery staple", "tried first"),
    ],
)
def test_a_password_that_is_tried_first_is_refused(password: str, words: str) -> None:
    with pytest.raises(InvalidPassword, match=words):
        check_password(password, "Ada Lovelace")


@pytest.mark.parametrize("password", [WORDS, "twelve chars", "only lower case", "ада ловелас 1815", "🐟" * 11 + "ab"])
def test_there_are_no_rules_about_kinds_of_characters(password: str) -> None:
    check_password(password, "Ada Lovelace")


# ---- signing in -----------------------------------------------------------------------------------------------


def test_name_and_password_sign_in_and_nothing_less(accounts: Accounts, sessions: Sessions) -> None:
    accounts.add("Ada", "adjudicator", WORDS, by=None)
    found = sessions.annotator_of(sessions.sign_in("  ADA ", WORDS))
    assert (found.name, found.role, found.state) == ("Ada", "adjudicator", "active")
    messages = set()
    for name, password in (("Ada", OTHER_WORDS), ("Nobody", WORDS), ("Ada", WORDS + " ")):
        with pytest.raises(WrongPassword) as caught:
            sessions.sign_in(name, password)
        messages.add(str(caught.value))
    assert messages == {"the name or the password is wrong"}
    for name in ("Ada", "Nobody"):
        with pytest.raises(PasswordNeeded, match="give your password"):
            sessions.sign_in(name)


def test_after_ten_wrong_tries_the_right_one_is_refused_too(accounts: Accounts, sessions: Sessions, clock) -> None:
    accounts.add("Ada", "annotator", WORDS, by=None)
    for number in range(MAX_TRIES):
        clock.now += 1
        with pytest.raises(WrongPassword):
            sessions.sign_in("ada", OTHER_WORDS, address=f"192.0.2.{number}")
    with pytest.raises(TooManyTries, match="10 wrong tries; wait 15 minutes") as caught:
        sessions.sign_in("Ada", WORDS, address="192.0.2.99")
    # the first of the ten was nine seconds ago
    assert caught.value.seconds == 891
    clock.now += TRIES_SECONDS - 9 - 1
    with pytest.raises(TooManyTries, match="wait a minute"):
        sessions.sign_in("Ada", WORDS, address="192.0.2.99")
    clock.now += 1
    sessions.sign_in("Ada", WORDS, address="192.0.2.99")


def test_an_address_has_ten_wrong_tries_whatever_the_names(
    store: Store, accounts: Accounts, sessions: Sessions, clock
) -> None:
    accounts.add("Ada", "annotator", WORDS, by=None)
    for number in range(MAX_TRIES):
        with pytest.raises(WrongPassword):
            sessions.sign_in(f"name {number}", WORDS, address=f"2001:db8:1:2::{number}")
    # after a restart as well
    again = Sessions(Accounts(store, passwords_required=True, passwords=QUICK, clock=clock))
    with pytest.raises(TooManyTries):
        again.sign_in("Ada", WORDS, address="2001:db8:1:2:ffff::1")
    again.sign_in("Ada", WORDS, address="2001:db8:1:3::1")
    assert len(column(store, login_failure.c.id)) == MAX_TRIES
    clock.now += TRIES_SECONDS
    again.sign_in("Ada", WORDS, address="2001:db8:1:2:ffff::1")
    assert column(store, login_failure.c.id) == []


def test_of_tries_that_come_at_once_no_more_than_ten_are_answered(
    store: Store, accounts: Accounts, sessions: Sessions
) -> None:
    accounts.add("Ada", "annotator", WORDS, by=None)
    other = Sessions(Accounts(store, passwords_required=True, passwords=QUICK, clock=accounts.clock))

    def guess(process: Sessions, number: int) -> Callable[[], str]:
        return lambda: process.sign_in("Ada", f"{OTHER_WORDS} {number}", address=f"192.0.2.{number}")

    found = at_once([guess(process, number) for number in range(16) for process in (sessions, other)])
    assert found == {"WrongPassword": MAX_TRIES, "TooManyTries": 32 - MAX_TRIES}
    assert len(column(store, login_failure.c.id)) == MAX_TRIES


def test_a_password_typed_as_the_name_is_not_kept(store: Store, sessions: Sessions) -> None:
    with pytest.raises(WrongPassword):
        sessions.sign_in(WORDS, WORDS)
    with store.reading() as connection:
        assert WORDS not in str(connection.execute(sa.select(login_failure)).all())


@pytest.mark.parametrize(
    "address, key",
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("testclient", "testclient"),
    ],
)
def test_an_address_of_the_new_kind_is_its_network(address: str, key: str) -> None:
    assert address_key(address) == key


# ---- the open mode --------------------------------------------------------------------------------------------


def test_in_the_open_mode_everybody_manages_until_a_manager_has_a_password(by_name: Sessions) -> None:
    token = by_name.sign_in("Ada")
    assert by_name.annotator_of(token).role == "manager"
    by_name.accounts.add("Grace", "annotator", WORDS, by=None)
    assert by_name.annotator_of(token).role == "manager"
    by_name.accounts.add("Edsger", "manager", WORDS, by=None)
    assert by_name.annotator_of(token).role == "annotator"
    assert by_name.accounts.has_manager()


def test_in_the_open_mode_an_account_with_a_password_is_asked_for_it(by_name: Sessions) -> None:
    by_name.accounts.add("Ada", "manager", WORDS, by=None)
    with pytest.raises(PasswordNeeded):
        by_name.sign_in("ada")
    with pytest.raises(WrongPassword):
        by_name.sign_in("ada", OTHER_WORDS)
    assert by_name.annotator_of(by_name.sign_in("ada", WORDS)).role == "manager"


def test_nobody_without_a_password_becomes_a_manager(by_name: Sessions) -> None:
    """Else whoever knows the name would manage."""
    ada = by_name.annotator_of(by_name.sign_in("Ada")).id
    with pytest.raises(InvalidSetting, match="Ada has no password"):
        by_name.accounts.set_role(ada, "manager", by=None)
    by_name.accounts.set_password(ada, WORDS, by=None)
    by_name.accounts.set_role(ada, "manager", by=None)


def test_a_session_by_name_alone_is_worth_nothing_where_passwords_are_required(
    by_name: Sessions, accounts: Accounts, sessions: Sessions
) -> None:
    token = by_name.sign_in("Ada")
    assert sessions.annotator_of(token) is None
    with pytest.raises(WrongPassword):
        sessions.sign_in("Ada", WORDS)
    accounts.set_password(by_name.annotator_of(token).id, WORDS, by=None)
    assert sessions.annotator_of(token) is None
    assert by_name.annotator_of(token) is None


# ---- sessions -------------------------------------------------------------------------------------------------


def test_a_session_ends_when_nobody_uses_it_and_after_a_month_anyway(
    accounts: Accounts, sessions: Sessions, clock
) -> None:
    accounts.add("Ada", "annotator", WORDS, by=None)
    idle = sessions.sign_in("Ada", WORDS)
    used = sessions.sign_in("Ada", WORDS)
    end = clock.now + SESSION_SECONDS
    while clock.now < end - STEP_SECONDS - 1:
        assert sessions.annotator_of(used) is not None
        clock.now = min(clock.now + IDLE_SECONDS - STEP_SECONDS - 1, end - STEP_SECONDS - 1)
    assert sessions.annotator_of(idle) is None
    assert sessions.annotator_of(used) is not None
    clock.now = end
    assert sessions.annotator_of(used) is None


def test_not_every_request_writes(store: Store, accounts: Accounts, sessions: Sessions, clock) -> None:
    accounts.add("Ada", "annotator", WORDS, by=None)
    token = sessions.sign_in("Ada", WORDS)
    (ends,) = column(store, session.c.expires_at)
    clock.now += 599
    sessions.annotator_of(token)
    assert column(store, session.c.expires_at) == [ends]
    clock.now += 2
    sessions.annotator_of(token)
    assert column(store, session.c.expires_at) == [clock.now + IDLE_SECONDS]


def test_another_password_ends_all_sessions_and_starts_one(accounts: Accounts, sessions: Sessions) -> None:
    ada = accounts.add("Ada", "annotator", WORDS, by=None).id
    before = [sessions.sign_in("Ada", WORDS) for _ in range(2)]
    with pytest.raises(WrongPassword):
        sessions.change_password(ada, "not this one at all", OTHER_WORDS)
    with pytest.raises(InvalidPassword):
        sessions.change_password(ada, WORDS, "short")
    assert all(sessions.annotator_of(token) for token in before)
    token = sessions.change_password(ada, WORDS, OTHER_WORDS)
    assert [sessions.annotator_of(old) for old in before] == [None, None]
    assert sessions.annotator_of(token).id == ada
    with pytest.raises(WrongPassword):
        sessions.sign_in("Ada", WORDS)
    sessions.sign_in("Ada", OTHER_WORDS)


def test_the_password_one_has_cannot_be_guessed_at_will_either(accounts: Accounts, sessions: Sessions) -> None:
    ada = accounts.add("Ada", "annotator", WORDS, by=None).id
    guess = "not this one at all"
    found = [outcome(lambda: sessions.change_password(ada, guess, OTHER_WORDS)) for _ in range(MAX_TRIES + 1)]
    assert found == ["WrongPassword"] * MAX_TRIES + ["TooManyTries"]


def test_a_session_is_found_by_a_hash_that_needs_the_secret(store: Store, clock) -> None:
    """Against RFC 2104 as the standard library has it."""
    secret = b"0123456789abcdef0123456789abcdef"
    keyed = Sessions(Accounts(store, secret=secret, passwords=QUICK, clock=clock))
    token = keyed.sign_in("Ada")
    assert column(store, session.c.token_hash) == [hmac.digest(secret, token.encode(), "sha256").hex()]
    assert keyed.annotator_of(token) is not None
    for other in (b"", b"another secret of thirty-two bytes"):
        assert Sessions(Accounts(store, secret=other, passwords=QUICK, clock=clock)).annotator_of(token) is None
    with store.writing() as connection:
        # what somebody could write who has the database and not the secret
        forged = hashlib.sha256(b"my own token").hexdigest()
        connection.execute(sa.update(session).values(token_hash=forged))
    assert keyed.annotator_of("my own token") is None


# ---- managing -------------------------------------------------------------------------------------------------


def test_a_closed_account_is_out_at_once_and_a_paused_one_is_not(accounts: Accounts, sessions: Sessions) -> None:
    ada = accounts.add("Ada", "annotator", WORDS, by=None).id
    token = sessions.sign_in("Ada", WORDS)
    accounts.set_state(ada, "paused", by=None)
    assert sessions.annotator_of(token).state == "paused"
    assert sessions.annotator_of(sessions.sign_in("Ada", WORDS)).state == "paused"
    accounts.set_state(ada, "closed", by=None)
    assert sessions.annotator_of(token) is None
    with pytest.raises(AccountClosed):
        sessions.sign_in("Ada", WORDS)
    with pytest.raises(WrongPassword):
        sessions.sign_in("Ada", OTHER_WORDS)
    accounts.set_state(ada, "active", by=None)
    assert sessions.annotator_of(token) is None
    sessions.sign_in("Ada", WORDS)
    with pytest.raises(InvalidSetting, match="use active, paused, closed"):
        accounts.set_state(ada, "asleep", by=None)


def test_a_closed_account_cannot_sign_in_by_its_name_either(by_name: Sessions) -> None:
    token = by_name.sign_in("Ada")
    by_name.accounts.set_state(by_name.annotator_of(token).id, "closed", by=None)
    assert by_name.annotator_of(token) is None
    with pytest.raises(AccountClosed):
        by_name.sign_in("Ada")


@pytest.mark.parametrize("how", ["closed", "erased"])
def test_what_a_closed_account_has_on_its_screens_goes_to_others_at_once(
    store: Store, service, fill, sign_in, how: str
) -> None:
    fill(3)
    ada, bob = sign_in("Ada"), sign_in("Bob")
    service.next_card(ada, "tab")
    service.submit(ada, Judgment("judgment-1", "1", Said("ranking", (1, 2))))
    held = {service.next_card(ada, tab).card.item_id for tab in ("tab", "other")}
    assert held == {"2", "3"}
    assert service.next_card(bob, "tab").card is None
    service.accounts.set_state(ada, "paused", by=None)
    assert service.next_card(bob, "tab").card is None
    if how == "closed":
        service.accounts.set_state(ada, "closed", by=None)
    else:
        service.accounts.erase(ada, by=None)
    assert service.next_card(bob, "tab").card.item_id in held
    assert sorted(column(store, slot.c.state)) == ["judged", "leased", "open"]


def test_an_erased_name_is_nowhere_and_the_judgments_stay(store: Store, service, fill, sign_in) -> None:
    fill(1)
    ada = sign_in("Ada Zoë")  # ë is in no hash
    service.next_card(ada, "tab")
    service.submit(ada, Judgment("judgment-1", "1", Said("ranking", (1, 2))))
    before = column(store, judgment.c.hash)
    service.accounts.erase(ada, by=None)
    assert column(store, judgment.c.hash) == before
    assert column(store, judgment.c.annotator_id) == [ada]
    with store.reading() as connection:
        for table in ("annotator", "session", "audit", "judgment", "login_failure", "invite"):
            assert "zoë" not in str(connection.execute(sa.text(f"SELECT * FROM {table}")).all()).lower()
    assert service.accounts.accounts()[0].name is None
    with pytest.raises(UnknownAccount, match="erased"):
        service.accounts.set_role(ada, "adjudicator", by=None)
    # the name is free, for somebody else
    assert sign_in("Ada Zoë") != ada


def test_there_is_always_a_manager_left(accounts: Accounts) -> None:
    ada = accounts.add("Ada", "manager", WORDS, by=None).id
    for action in (
        lambda: accounts.set_role(ada, "annotator", by=ada),
        lambda: accounts.set_state(ada, "closed", by=ada),
        lambda: accounts.erase(ada, by=ada),
    ):
        with pytest.raises(LastManager, match="Ada is the only manager"):
            action()
    accounts.set_state(ada, "paused", by=ada)
    accounts.add("Grace", "manager", WORDS, by=ada)
    accounts.erase(ada, by=ada)


def test_two_managers_who_dismiss_each_other_leave_one(accounts: Accounts) -> None:
    ids = [accounts.add(name, "manager", WORDS, by=None).id for name in ("Ada", "Grace")]
    found = at_once([lambda one=one: accounts.set_role(one, "annotator", by=None) for one in ids])
    assert found == {"done": 1, "LastManager": 1}


def test_a_name_belongs_to_one_account(accounts: Accounts) -> None:
    accounts.add("Ada", "annotator", WORDS, by=None)
    with pytest.raises(NameTaken, match="ADA is taken"):
        accounts.add("ADA", "annotator", WORDS, by=None)
    found = at_once([lambda: accounts.add("Grace", "annotator", WORDS, by=None)] * 4)
    assert found == {"done": 1, "NameTaken": 3}


def test_every_change_of_accounts_is_in_the_audit_without_names(
    store: Store, accounts: Accounts, sessions: Sessions, invites: Invites
) -> None:
    ada = accounts.add("Ada", "manager", WORDS, by=None).id
    grace = accounts.add("Grace", "annotator", WORDS, by=ada).id
    accounts.set_role(grace, "manager", by=ada)
    accounts.set_state(grace, "paused", by=ada)
    sessions.change_password(grace, WORDS, OTHER_WORDS)
    token = invites.make("annotator", note="for Edsger", uses=2, by=ada)
    invites.accept(token, "Edsger", WORDS)
    invites.revoke(invites.all()[0].id, by=ada)
    accounts.erase(grace, by=ada)
    with store.reading() as connection:
        rows = connection.execute(sa.select(audit.c.action, audit.c.actor_id, audit.c.details)).all()
    actions = [(row.action, row.actor_id) for row in rows][-9:]
    assert actions == [
        ("account added", None),
        ("account added", ada),
        ("role changed", ada),
        ("account state changed", ada),
        ("password set", grace),
        ("invite made", ada),
        ("account added", None),
        ("invite revoked", ada),
        ("account erased", ada),
    ]
    assert not any(name in str(rows) for name in ("Ada", "Grace", "Edsger", WORDS, token))


# ---- invites --------------------------------------------------------------------------------------------------


def test_an_invite_makes_accounts_of_its_role_and_campaign(
    store: Store, sessions: Sessions, invites: Invites, fill
) -> None:
    fill(1)
    (campaign_id,) = column(store, campaign.c.id)
    token = invites.make("adjudicator", campaign_id=campaign_id, uses=2, by=None)
    session_token = invites.accept(token, "Ada", WORDS)
    ada = sessions.annotator_of(session_token)
    assert (ada.name, ada.role) == ("Ada", "adjudicator")
    assert column(store, member.c.annotator_id) == [ada.id]
    assert invites.find(token).uses_left == 1
    invites.accept(token, "Grace", WORDS)
    with pytest.raises(InvalidInvite):
        invites.accept(token, "Edsger", WORDS)
    assert token not in str(column(store, invite.c.token_hash))


def test_an_invite_that_did_not_make_an_account_keeps_its_use(accounts: Accounts, invites: Invites) -> None:
    accounts.add("Ada", "annotator", WORDS, by=None)
    token = invites.make("annotator", by=None)
    for name, password, error in (
        ("ada", WORDS, "NameTaken"),
        ("Grace", "short", "InvalidPassword"),
        ("\u202e", WORDS, "InvalidName"),
    ):
        assert outcome(lambda name=name, password=password: invites.accept(token, name, password)) == error
    invites.accept(token, "Grace", WORDS)


def test_the_last_use_of_an_invite_is_used_once(accounts: Accounts, invites: Invites) -> None:
    token = invites.make("annotator", by=None)
    found = at_once([lambda n=n: invites.accept(token, f"name {n}", WORDS) for n in range(6)])
    assert found == {"done": 1, "InvalidInvite": 5}
    assert len(accounts.accounts()) == 1


def test_an_invite_ends_with_its_time_by_a_manager_and_with_its_manager(
    accounts: Accounts, invites: Invites, clock
) -> None:
    ada = accounts.add("Ada", "manager", WORDS, by=None).id
    grace = accounts.add("Grace", "manager", WORDS, by=None).id
    short, revoked, hers, lasting = (
        invites.make("annotator", days=days, by=by) for days, by in ((1, ada), (9, ada), (9, grace), (9, ada))
    )
    invite_id = hashlib.sha256(revoked.encode()).hexdigest()
    invites.revoke(invite_id, by=ada)
    accounts.set_state(grace, "closed", by=ada)
    clock.now += 24 * 3600
    found = [outcome(lambda token=token: invites.find(token)) for token in (short, revoked, hers, lasting, "x")]
    assert found == ["InvalidInvite", "InvalidInvite", "InvalidInvite", "done", "InvalidInvite"]
    with pytest.raises(InvalidInvite):
        invites.revoke("nothing", by=ada)


def test_who_has_an_account_joins_a_campaign_and_keeps_their_role(
    store: Store, accounts: Accounts, invites: Invites, fill
) -> None:
    fill(1)
    ada, grace, edsger = (accounts.add(name, "annotator", WORDS, by=None).id for name in ("Ada", "Grace", "Edsger"))
    token = invites.make("adjudicator", campaign_id=1, uses=2, by=None)
    invites.join(token, ada)
    invites.join(token, ada)
    assert invites.find(token).uses_left == 1
    invites.join(token, grace)
    with pytest.raises(InvalidInvite, match="ask for a new one"):
        invites.join(token, edsger)
    assert sorted(column(store, member.c.annotator_id)) == sorted([ada, grace])
    assert {account.role for account in accounts.accounts()} == {"annotator"}
    with store.reading() as connection:
        rows = connection.execute(sa.select(audit).where(audit.c.action == "campaign joined")).all()
    number = hashlib.sha256(token.encode()).hexdigest()[:12]
    assert [(row.actor_id, row.details) for row in rows] == [
        (who, {"campaign": 1, "invite": number}) for who in (ada, grace)
    ]


def test_an_invite_that_is_of_no_campaign_or_was_taken_back_joins_nobody(
    store: Store, accounts: Accounts, invites: Invites, fill
) -> None:
    fill(1)
    ada = accounts.add("Ada", "annotator", WORDS, by=None).id
    with pytest.raises(InvalidInvite, match="of no campaign"):
        invites.join(invites.make("annotator", by=None), ada)
    token = invites.make("annotator", campaign_id=1, by=None)
    invites.revoke(hashlib.sha256(token.encode()).hexdigest(), by=None)
    for wrong in (token, "nothing"):
        with pytest.raises(InvalidInvite, match="ask for a new one"):
            invites.join(wrong, ada)
    assert column(store, member.c.annotator_id) == []


def test_the_last_use_of_an_invite_makes_one_member(store: Store, accounts: Accounts, invites: Invites, fill) -> None:
    fill(1)
    ids = [accounts.add(f"name {number}", "annotator", WORDS, by=None).id for number in range(4)]
    token = invites.make("annotator", campaign_id=1, uses=2, by=None)
    found = at_once([lambda one=one: invites.join(token, one) for one in (ids[0], *ids)])
    assert found["InvalidInvite"] == 5 - found["done"]
    assert len(column(store, member.c.annotator_id)) == 2
    assert column(store, invite.c.uses_left) == [0]


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"role": "king"}, "role is 'king'; use annotator, adjudicator, manager"),
        ({"uses": 0}, "uses is 0"),
        ({"days": 0}, "days is 0"),
        ({"days": float("nan")}, "days is nan"),
        ({"note": "n" * 201}, "note is longer"),
        ({"campaign_id": 99}, "no campaign 99"),
    ],
)
def test_an_invite_that_cannot_be_is_refused(invites: Invites, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        invites.make(**{"role": "annotator", "by": None} | settings)
