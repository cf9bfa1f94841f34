"""What the pages and the command line do with the store. No web framework, no torch; any thread may call.

Each method is one short transaction. What is returned has been committed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

import sqlalchemy as sa

from annotation import adjudication, assignment, audit, campaigns, drawing, gold, judgments
from annotation.accounts import Accounts
from annotation.campaigns import Campaign
from annotation.cards import kept_order, lock, show
from annotation.invites import Invites
from annotation.judgments import check_id
from annotation.records import (
    Annotator,
    Card,
    Gate,
    GoldScore,
    HistoryRow,
    InvalidJudgment,
    Judgment,
    Next,
    NotHeld,
    Progress,
    Saved,
    Undone,
    UnknownItem,
)
from annotation.sessions import Sessions
from annotation.store import Store
from annotation.tables import annotator, campaign, item, judgment, prompt, slot

LEASE_SECONDS = 600.0
# From this many items on, the store-wide numbers are counted every few seconds and not at each answer.
LARGE_STORE = 2000
COUNT_SECONDS, MOST_COUNT_SECONDS = 5.0, 60.0
COUNT_SHARE = 0.02  # of the time goes to counting, at most
TOLD_SECONDS = 3600.0  # where items have a known answer: after which the numbers told are counted anew in any case
PROMPT_CHARACTERS = 200  # of a prompt in the history
WORKS = (assignment.WORK, assignment.GOLD, assignment.QUALIFICATION)


def _own_counts() -> sa.Select:
    """How many items an annotator holds, with a known answer and without, has judged, has skipped and has flagged."""
    who: sa.BindParameter[str] = sa.bindparam("annotator_id")
    is_known = slot.c.kind.in_((assignment.GOLD, assignment.QUALIFICATION))

    def items(state: str, *conditions: sa.ColumnElement[bool]) -> sa.ScalarSelect:
        mine = (slot.c.annotator_id == who) & (slot.c.state == state)
        return sa.select(sa.func.count(sa.distinct(slot.c.item_id))).where(mine, *conditions).scalar_subquery()

    def answers(kind: str) -> sa.ScalarSelect:
        found = assignment.current_judgments(kinds=(kind,)).where(judgment.c.annotator_id == who)
        return found.with_only_columns(sa.func.count()).scalar_subquery()

    return sa.select(
        items("leased", ~is_known).label("leased"),
        items("leased", is_known, slot.c.leased_until > sa.bindparam("now", type_=sa.Float)).label("leased_known"),
        items("judged").label("judged"),
        answers("skip").label("skipped"),
        answers("flag").label("flagged"),
    )


# made once: it takes longer than running it
_OWN_COUNTS = _own_counts()


@dataclass(frozen=True)
class _Counted:
    """Items of a campaign, those with all their rankings, those with a free slot, and until when this is good."""

    total: int
    done: int
    free: int
    until: float


@dataclass(frozen=True)
class _Told:
    """What an annotator is told where some items have a known answer: counted at so many answers, good until a time."""

    answers: int
    planned: int
    done: int
    until: float


class AnnotationService:
    """The work of annotators on one store.

    Args:
        store: where everything is kept.
        lease_seconds: how long an item stays with a tab that no longer asks for it.
        clock: seconds since 1970.
        random: draws which items come out of their order.
        accounts: who may come in; none for those of the store in the open mode.
    """

    def __init__(
        self,
        store: Store,
        *,
        lease_seconds: float = LEASE_SECONDS,
        clock: Callable[[], float] = time.time,
        random: Random | None = None,
        accounts: Accounts | None = None,
    ):
        self.store = store
        self.accounts = accounts or Accounts(store, clock=clock)
        self.sessions = Sessions(self.accounts)
        self.invites = Invites(self.sessions)
        self.lease_seconds = lease_seconds
        self.clock = clock
        self.random = random or Random()
        self._counts: dict[int, _Counted] = {}
        self._busy: dict[str, tuple[float, int]] = {}  # annotator -> until, items with a free slot that are not theirs
        self._told: dict[str, _Told] = {}
        # (annotator, campaign ordered by age) -> priority and number of the slot they have come to
        self._places: dict[tuple[str, int], tuple[float, int]] = {}

    # ---- sessions -----------------------------------------------------------------------------------------

    def sign_in(self, name: str, password: str = "", *, address: str = "") -> str:
        """As `Sessions.sign_in`."""
        return self.sessions.sign_in(name, password, address=address)

    def annotator_of(self, token: str | None) -> Annotator | None:
        """As `Sessions.annotator_of`."""
        return self.sessions.annotator_of(token)

    def sign_out(self, token: str) -> None:
        """As `Sessions.sign_out`."""
        self.sessions.sign_out(token)

    # ---- work ---------------------------------------------------------------------------------------------

    def next_card(self, annotator_id: str, client: str, *, exclude: Sequence[str] = ()) -> Next:
        """Lease an item and show it: the one this tab holds already, else a new one; or say what stands before it.

        Args:
            annotator_id: who asks.
            client: names the browser tab: two tabs of one annotator get different items.
            exclude: items the tab has on the screen or has just judged.
        """
        known = [int(item_id) for item_id in exclude if _is_number(item_id)]

        def lease(connection: sa.Connection) -> Next:
            now = self.clock()
            if campaigns.state_of(connection, annotator_id) != "active":
                return Next(None, Gate("paused"))
            until = now + self.lease_seconds
            held = assignment.held_item(
                connection, annotator_id, client, known, kinds=(*WORKS, assignment.LIVE), now=now, until=until
            )
            if held is not None:
                return Next(show(connection, held, annotator_id, until))
            gate: Gate | None = None
            for found in campaigns.working_campaigns(connection, annotator_id):
                given = self._from_campaign(connection, found, annotator_id, client, known, now=now, until=until)
                if given.card is not None or (given.gate is not None and given.gate.kind == "guideline"):
                    return given
                gate = gate or given.gate
            return Next(None, gate)

        return self.store.write(lease)

    def accept_guideline(self, annotator_id: str, campaign_id: int, version: int) -> None:
        """Keep that the annotator has read and accepted a campaign's guidelines.

        Raises:
            CampaignError: there is no such version.
        """
        self.store.write(
            lambda connection: campaigns.accept_guideline(
                connection, campaign_id, version, annotator_id, at=self.clock()
            )
        )

    def next_adjudication(
        self, annotator_id: str, client: str, *, exclude: Sequence[str] = ()
    ) -> tuple[Card | None, int]:
        """Lease an item whose annotators disagree, with what they said; and how many of them there are."""
        known = [int(item_id) for item_id in exclude if _is_number(item_id)]

        def lease(connection: sa.Connection) -> Card | None:
            now = self.clock()
            until = now + self.lease_seconds
            kind = assignment.ADJUDICATION
            item_id = assignment.held_item(connection, annotator_id, client, known, kinds=(kind,), now=now, until=until)
            if item_id is None:
                item_id = adjudication.next_item(connection, annotator_id, known, now=now)
                if item_id is None:
                    return None
                assignment.lease_extra(connection, item_id, kind, annotator_id, client, now=now, until=until)
            return show(connection, item_id, annotator_id, until, chosen_by=kind)

        with self.store.reading() as connection:
            waiting = adjudication.num_waiting(connection, annotator_id, now=self.clock())
        return self.store.write(lease), waiting

    def renew(self, annotator_id: str, client: str, item_ids: Sequence[str]) -> list[str]:
        """Keep a tab's items for another `lease_seconds`; those it still holds."""
        numbers = [int(item_id) for item_id in item_ids if _is_number(item_id)]
        until = self.clock() + self.lease_seconds
        held = self.store.write(
            lambda connection: assignment.renew(connection, annotator_id, client, numbers, until=until)
        )
        return [str(item_id) for item_id in held]

    def release(self, annotator_id: str, client: str) -> None:
        """Give a tab's items back: it closes."""
        self.store.write(lambda connection: assignment.give_back(connection, annotator_id, client=client))
        self._places.clear()  # what opens behind somebody is looked for again

    def submit(self, annotator_id: str, sent: Judgment) -> Saved:
        """Keep a judgment for good. Sent again with the same id it changes nothing and gives the same answer.

        A second judgment of an item is a new revision; the first one stays in the history.

        Raises:
            UnknownItem: there is no such item, or it was never shown to this annotator.
            InvalidJudgment: it does not fit the item, or its id was used for something else.
            NotHeld: the lease had run out, and others have filled all places of this item since.
        """
        check_id(sent.id)
        if type(sent.active_ms) is not int or not 0 <= sent.active_ms < 2**53:
            raise InvalidJudgment(f"active_ms is {sent.active_ms!r}; give milliseconds >= 0")

        def keep(connection: sa.Connection) -> Saved:
            now = self.clock()
            item_id = int(sent.item_id) if _is_number(sent.item_id) else -1
            lock(connection, item_id)
            before = judgments.by_id(connection, sent.id)
            if before is not None:  # whatever is asked for by now
                judgments.check_same(before, annotator_id, item_id, sent.said)
                return Saved(sent.id, sent.item_id, before.revision)
            order = kept_order(connection, item_id, annotator_id)
            if order is None:
                raise UnknownItem("this item was never shown to you; reload the page")
            judgments.check(sent.said, *judgments.context(connection, item_id, order))
            told = judgments.by_position(sent.said, order)
            kind = assignment.hold(connection, item_id, annotator_id, now=now, client=None, until=None)
            if kind is None:
                raise NotHeld(
                    "this item went to somebody else after its time here had run out; your judgment was not counted"
                )
            if sent.said.kind != "ranking":
                assignment.give_back(connection, annotator_id, item_id=item_id)
            told |= {"active_ms": sent.active_ms, "shown_order": order, "role": kind}
            revision = judgments.append(connection, sent.id, item_id, annotator_id, told, at=now)
            adjudication.update(connection, item_id)
            if kind == assignment.GOLD and sent.said.kind == "ranking":
                self._pause_if_wrong(connection, annotator_id, item_id, now)
            return Saved(sent.id, sent.item_id, revision)

        saved = self.store.write(keep)
        if sent.said.kind != "ranking":
            self._places.clear()
        return saved

    def undo(self, annotator_id: str, client: str, undo_id: str) -> Undone | None:
        """Take back this annotator's newest judgment that stands, and lease its item to the tab again.

        The judgment stays in the history; an entry that it was taken back follows it, and what it had replaced stands
        again. None when there is none. Of a skip whose item others have taken since, there is no card.

        Raises:
            InvalidJudgment: the id was used for something else.
        """
        check_id(undo_id)

        def take_back(connection: sa.Connection) -> Undone | None:
            # one at a time: two would take back the same judgment; a judgment, whose row names this one, need not wait
            own = sa.select(annotator.c.id).where(annotator.c.id == annotator_id)
            connection.execute(own.with_for_update(key_share=True))
            done = judgments.by_id(connection, undo_id)
            if done is not None and (done.kind != "undo" or done.annotator_id != annotator_id):
                raise InvalidJudgment(f"id {undo_id} was used for another judgment; send a new one")
            if done is None:
                last = judgments.newest(connection, annotator_id)
            else:
                last = judgments.by_number(connection, done.supersedes)
            if last is None:
                return None
            lock(connection, last.item_id)
            now = self.clock()
            if done is None:
                told = {"kind": "undo", "active_ms": 0, "shown_order": last.shown_order, "role": last.role}
                judgments.append(connection, undo_id, last.item_id, annotator_id, told, at=now)
                self._stand_again(connection, undo_id, last, now)
            stands = judgments.standing(connection, last.item_id, annotator_id)
            if stands is None or stands.id == judgments.id_of_restored(undo_id):
                card = self._opened(connection, stands, last.item_id, annotator_id, client, now)
            else:
                card = None  # sent again, and answered since
            adjudication.update(connection, last.item_id)
            return Undone(card, judgments.as_shown(last))

        return self.store.write(take_back)

    def open_again(self, annotator_id: str, client: str, item_id: str) -> Undone:
        """A judgment of one's own, to be judged anew: what is sent next is a new revision; until then it stands.

        Raises:
            UnknownItem: this annotator has no judgment of such an item.
            NotHeld: it was skipped, and others have filled its places since.
        """

        def reopen(connection: sa.Connection) -> Undone:
            number = int(item_id) if _is_number(item_id) else -1
            row = judgments.standing(connection, number, annotator_id)
            if row is None:
                raise UnknownItem("you have no judgment of this item; reload the page")
            lock(connection, number)
            now = self.clock()
            card = self._opened(connection, row, number, annotator_id, client, now)
            if card is None:
                raise NotHeld("others have taken this item since you left it out; there is no place left in it")
            return Undone(card, judgments.as_shown(row))

        return self.store.write(reopen)

    # ---- one's own work -----------------------------------------------------------------------------------

    def history(self, annotator_id: str, *, before: int | None = None, limit: int = 50) -> list[HistoryRow]:
        """This annotator's judgments that stand, newest first; those with a number below `before`."""
        current = assignment.current_judgments().where(judgment.c.annotator_id == annotator_id)
        if before is not None:
            current = current.where(judgment.c.number < before)
        rows = current.order_by(judgment.c.number.desc()).limit(limit).subquery()
        query = (
            sa.select(rows, campaign.c.name.label("campaign"), prompt.c.messages)
            .join(item, item.c.id == rows.c.item_id)
            .join(campaign, campaign.c.id == item.c.campaign_id)
            .join(prompt, prompt.c.id == item.c.prompt_id)
            .order_by(rows.c.number.desc())
        )
        with self.store.reading() as connection:
            return [
                HistoryRow(
                    number=row.number,
                    item_id=str(row.item_id),
                    campaign=row.campaign,
                    at=row.created_at,
                    said=judgments.as_shown(row),
                    revision=row.revision,
                    active_ms=row.active_ms,
                    prompt=row.messages[-1]["content"][:PROMPT_CHARACTERS],
                )
                for row in connection.execute(query)
            ]

    def own_times(self, annotator_id: str) -> list[tuple[float, str, int]]:
        """When, of what kind and how many active milliseconds this annotator's standing judgments are; oldest first."""
        current = assignment.current_judgments().where(judgment.c.annotator_id == annotator_id).subquery()
        query = sa.select(current.c.created_at, current.c.kind, current.c.active_ms).order_by(current.c.number)
        with self.store.reading() as connection:
            return [(row.created_at, row.kind, row.active_ms) for row in connection.execute(query)]

    def own_gold(self, annotator_id: str) -> GoldScore:
        """How this annotator does on gold items, as they may know it: in steps, after the first few."""
        with self.store.reading() as connection:
            return gold.told_score(connection, annotator_id)

    def own_campaigns(self, annotator_id: str) -> list[tuple[Campaign, campaigns.Guideline | None]]:
        """The campaigns this annotator works on, with their newest guidelines."""
        with self.store.reading() as connection:
            found = campaigns.working_campaigns(connection, annotator_id)
            return [(each, campaigns.newest_guideline(connection, each.id)) for each in found]

    def progress(self, annotator_id: str) -> Progress:
        """How far this annotator and the open campaigns are."""
        now = self.clock()
        with self.store.asking() as connection:
            open_to_them = campaigns.working_campaigns(connection, annotator_id)
            counts = [self._counted(connection, found.id, now) for found in open_to_them]
            own = connection.execute(_OWN_COUNTS, {"annotator_id": annotator_id, "now": now}).one()
            numbers = [found.id for found in open_to_them]
            num_busy_and_free = self._busy_and_free(connection, annotator_id, numbers, now)
            free = max(sum(found.free for found in counts) - num_busy_and_free, 0)
            done = sum(found.done for found in counts)
            answers = own.judged + own.skipped + own.flagged
            planned = answers + free + own.leased
            is_left = free + own.leased + own.leased_known > 0
            if is_left and any(gold.is_used(found.settings) for found in open_to_them):
                planned += sum(gold.num_ahead(connection, found, annotator_id) for found in open_to_them)
                planned, done = self._in_steps(annotator_id, _Told(answers, planned, done, now + TOLD_SECONDS), now)
            return Progress(
                judged=own.judged,
                skipped=own.skipped,
                flagged=own.flagged,
                available=planned - answers,
                total=sum(found.total for found in counts),
                done=done,
                waiting=0 if is_left else assignment.num_waiting_for_others(connection, annotator_id, numbers),
            )

    def num_items(self) -> int:
        """Items of all campaigns, whoever may have them."""
        with self.store.reading() as connection:
            return int(connection.execute(sa.select(sa.func.count()).select_from(item)).scalar_one())

    # ---- inside -------------------------------------------------------------------------------------------

    def _from_campaign(
        self,
        connection: sa.Connection,
        found: Campaign,
        annotator_id: str,
        client: str,
        exclude: Sequence[int],
        *,
        now: float,
        until: float,
    ) -> Next:
        """An item of one campaign, or what stands before it; neither when there is nothing left."""
        guideline = campaigns.guideline_to_accept(connection, found.id, annotator_id)
        if guideline is not None:
            return Next(None, Gate("guideline", found.name, found.id, guideline.version, guideline.text))

        def extra(item_id: int, kind: str) -> Next:
            assignment.lease_extra(connection, item_id, kind, annotator_id, client, now=now, until=until)
            return Next(show(connection, item_id, annotator_id, until, chosen_by=kind))

        settings = found.settings
        if settings.qualification_items:
            state = gold.qualification(connection, found, annotator_id)
            ahead = [item_id for item_id in state.left if item_id not in exclude]
            if ahead and not self._holds(connection, ahead[0], annotator_id, now):
                return extra(ahead[0], assignment.QUALIFICATION)
            if state.left:
                return Next(None)  # the last ones are on the screen or on their way here
            if state.items and state.accuracy < settings.qualification_accuracy:
                needed = settings.qualification_accuracy
                return Next(None, Gate("not_qualified", found.name, found.id, accuracy=state.accuracy, needed=needed))
        places = assignment.places_for(found.id, annotator_id, exclude)
        key = (annotator_id, found.id)
        first = assignment.first_place(connection, places, now=now, after=self._places.get(key))
        if first is None:
            return Next(None)  # and no gold either: alone, it would be known for gold
        golds = gold.left(connection, found.id, annotator_id, exclude, now=now) if settings.gold_share else []
        if golds and self.random.random() < settings.gold_share:
            return extra(self.random.choice(golds), assignment.GOLD)
        share = {"oldest": 0.0, "useful": settings.random_share, "random": 1.0}[settings.order]
        chosen, is_drawn, probability = first, False, None
        if share and first.state == "open":
            chosen, is_drawn, chance = drawing.choose(connection, assignment.waiting(places), first, share, self.random)
            probability = chance * (1.0 - settings.gold_share if golds else 1.0)
        assignment.take(connection, chosen, annotator_id, client, until=until)
        if settings.order == "oldest":  # what is new comes last there
            self._places[key] = (chosen.priority, chosen.slot_id)
        chosen_by = "random" if is_drawn else "order"
        return Next(show(connection, chosen.item_id, annotator_id, until, chosen_by=chosen_by, probability=probability))

    def _holds(self, connection: sa.Connection, item_id: int, annotator_id: str, now: float) -> bool:
        """Whether another tab of this annotator has the item."""
        own = (slot.c.item_id == item_id) & (slot.c.annotator_id == annotator_id) & (slot.c.state == "leased")
        return connection.execute(sa.select(slot.c.id).where(own, slot.c.leased_until > now)).first() is not None

    def _opened(
        self, connection: sa.Connection, stands: sa.Row | None, item_id: int, annotator_id: str, client: str, now: float
    ) -> Card | None:
        """The card of an item to be judged anew; None where others have taken it.

        A ranking that stands has its place; without one the item is leased once more.
        """
        until = now + self.lease_seconds
        has_place = stands is not None and stands.kind == "ranking"
        if not has_place and (
            assignment.hold(connection, item_id, annotator_id, now=now, client=client, until=until) is None
        ):
            return None
        return show(connection, item_id, annotator_id, until)

    def _stand_again(self, connection: sa.Connection, undo_id: str, last: sa.Row, now: float) -> None:
        """Let what a judgment had replaced stand once the judgment is taken back: a copy of it follows.

        A ranking needs a place: where that was given away for a skip, and others have taken it, nothing stands.
        """
        before = judgments.by_number(connection, last.supersedes)
        if before is None or before.kind == "undo":
            return
        if before.kind == "ranking":
            who = last.annotator_id
            if assignment.hold(connection, last.item_id, who, now=now, client=None, until=None) is None:
                return
        else:
            assignment.give_back(connection, last.annotator_id, item_id=last.item_id)
        judgments.restore(connection, before, judgments.id_of_restored(undo_id))

    def _pause_if_wrong(self, connection: sa.Connection, annotator_id: str, item_id: int, now: float) -> None:
        """Pause whoever is wrong on gold by more than chance explains; a manager decides what follows."""
        found = campaigns.find(connection, campaigns.number_of(connection, item_id))
        if not found.settings.gold_accuracy:
            return
        score = gold.score(connection, annotator_id, campaign_id=found.id)
        if not gold.falls_short(score, found.settings.gold_accuracy):
            return
        paused = sa.update(annotator).where(annotator.c.id == annotator_id, annotator.c.state == "active")
        if connection.execute(paused.values(state="paused")).rowcount:
            details = {"annotator": annotator_id, "campaign": found.id, "gold": score.n, "right": score.right}
            audit.record(connection, "annotator paused", None, details, at=now)

    def _in_steps(self, annotator_id: str, counted: _Told, now: float) -> tuple[int, int]:
        """How many items are planned for an annotator and how many are finished, counted anew after some answers.

        Counted after each one, they would say which items had a known answer: those finish nothing.
        """
        known = self._told.get(annotator_id)
        if (
            known is None
            or not known.answers - gold.TOLD_AT_A_TIME < counted.answers < known.answers + gold.TOLD_AT_A_TIME
            or counted.answers >= known.planned
            or now >= known.until
        ):
            known = self._told[annotator_id] = counted
        return known.planned, known.done

    def _counted(self, connection: sa.Connection, campaign_id: int, now: float) -> _Counted:
        """Numbers of a whole campaign; of a large one a few seconds old."""
        known = self._counts.get(campaign_id)
        if known is not None and now < known.until:
            return known
        if known is not None and known.total > LARGE_STORE:  # whoever asks while it is counted takes what is known
            self._counts[campaign_id] = replace(known, until=now + COUNT_SECONDS)
        total, done, free = assignment.count_items(connection, campaign_id, now=now)
        end = self.clock()
        kept_for = min(max(COUNT_SECONDS, (end - now) / COUNT_SHARE), MOST_COUNT_SECONDS)
        until = end + kept_for if total > LARGE_STORE else now
        found = self._counts[campaign_id] = _Counted(total, done, free, until)
        return found

    def _busy_and_free(
        self, connection: sa.Connection, annotator_id: str, campaign_ids: Sequence[int], now: float
    ) -> int:
        """Items with a free slot that this annotator has answered or holds: they are not given again."""
        until, known = self._busy.get(annotator_id, (now, 0))
        if now < until:
            return known
        answers = assignment.current_judgments().where(judgment.c.annotator_id == annotator_id).subquery()
        leased = sa.select(slot.c.item_id).where(slot.c.annotator_id == annotator_id, slot.c.state == "leased")
        busy = sa.select(answers.c.item_id).union(leased).subquery()
        # from these few to their slots: the other way round all slots of the campaigns would be looked through
        has_place = sa.exists().where(
            slot.c.item_id == busy.c.item_id, slot.c.kind == assignment.WORK, assignment.free(now)
        )
        query = (
            sa.select(item.c.campaign_id, sa.func.count())
            .join(busy, busy.c.item_id == item.c.id)
            .where(has_place)
            .group_by(item.c.campaign_id)
        )
        found = sum(count for number, count in connection.execute(query) if number in campaign_ids)
        large = sum(counted.total for counted in self._counts.values()) > LARGE_STORE
        self._busy[annotator_id] = (now + COUNT_SECONDS if large else now, found)
        return found


def _is_number(item_id: str) -> bool:
    return item_id.isascii() and item_id.isdigit() and len(item_id) < 19
