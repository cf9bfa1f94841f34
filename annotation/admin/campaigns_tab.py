"""Campaigns: fill them from files, their settings, guidelines, gold items and members."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from annotation import campaigns, managing
from annotation.admin.desk import Call, Desk, Mistake, number_of, said, table_html
from annotation.assignment import GOLD, QUALIFICATION
from annotation.campaigns import ASKED, ORDERS, STATES, VIEWS, Aspect, Campaign, CampaignSettings
from annotation.figure_tables import Table
from annotation.rendering import render

SWITCHES = ("members_only", "both_bad", "strength", "edits", "live")
SHARES = ("random_share", "gold_share", "gold_accuracy", "qualification_accuracy")
CHOICES = {"order": ORDERS, "rationale": ASKED, "view": VIEWS}
LISTS = ("aspects", "skip_reasons", "flag_reasons")
KINDS = (GOLD, QUALIFICATION)
# a row of the list is pressed
PICK = """element.addEventListener('click', (event) => {
  const button = event.target.closest('tr')?.querySelector('button');
  if (button) trigger('pick', { item: Number(button.dataset.value) });
});"""
# in the order of the form
FIELDS = (
    *("order", "random_share", "gold_share", "gold_accuracy", "qualification_items", "qualification_accuracy"),
    *("rationale", "view", *SWITCHES, *LISTS, "content_warning"),
)


def build(desk: Desk, chosen: Any, fill_choices: Any) -> tuple[Any, list[Any]]:
    """Components and events of the tab, for the campaign that is `chosen`.

    `fill_choices` gives what the list of campaigns becomes, with one of them chosen. Returns what shows a campaign, a
    function of the call and its number, and the components that it fills.
    """
    gr, say = desk.gr, desk.say
    with gr.Tabs():
        with gr.Tab(say("campaigns.new")):
            made = _new(desk, chosen, fill_choices)
        with gr.Tab(say("campaigns.settings")):
            show_settings, settings = _settings(desk, chosen)
        with gr.Tab(say("campaigns.guidelines")):
            show_guidelines, guidelines = _guidelines(desk, chosen)
        with gr.Tab(say("campaigns.gold")):
            show_gold, gold = _gold(desk, chosen)
        with gr.Tab(say("campaigns.members")):
            show_members, members = _members(desk, chosen)

    def show(call: Call, campaign_id: int | None) -> list[Any]:
        if campaign_id is None:
            return [gr.skip() for _ in (*settings, *guidelines, *gold, *members)]
        parts = (show_settings, show_guidelines, show_gold, show_members)
        return [value for part in parts for value in part(call, campaign_id)]

    # the campaign that was made is chosen now
    desk.on(made.then, show, [chosen], [*settings, *guidelines, *gold, *members])
    return show, [*settings, *guidelines, *gold, *members]


def upload(gr: Any, label: Any) -> Any:
    """A field for a file of items."""
    return gr.File(label=label, file_types=list(managing.UPLOADS), type="filepath", height=120)


def named(campaign_id: int | None) -> int:
    """The campaign that is chosen.

    Raises:
        Mistake: none is.
    """
    if campaign_id is None:
        raise Mistake("mistake.no_campaign")
    return campaign_id


def _new(desk: Desk, chosen: Any, fill_choices: Any) -> Any:
    """Returns what follows once a campaign was made."""
    gr, say = desk.gr, desk.say
    gr.Markdown(say("campaigns.new.hint"))
    with gr.Row():
        name = gr.Textbox(label=say("field.name"), max_lines=1, elem_id="new-campaign-name")
        overlap = gr.Number(label=say("field.overlap"), info=say("field.overlap.info"), value=1, precision=0, minimum=1)
        kind = gr.Radio(label=say("field.gold_kind"), choices=list(KINDS), value=GOLD)
    file = upload(gr, say("field.file"))
    make = gr.Button(say("campaigns.make"), variant="primary")
    told = gr.HTML()

    def fill(call: Call, name: str, overlap: Any, kind: str, file: str | None) -> list[Any]:
        if not file:
            raise Mistake("mistake.no_file")
        done = managing.fill_campaign(
            desk.store,
            Path(file),
            name.strip(),
            overlap=number_of(overlap, "field.overlap"),
            gold_kind=kind,
            by=call.manager.id,
            at=call.at,
        )
        with desk.store.reading() as connection:
            campaign_id = campaigns.by_name(connection, name.strip()).id
        desk.dashboard.forget(campaign_id)
        return [
            fill_choices(campaign_id),
            said(call.words["campaigns.made"].format(name=name.strip(), done=done)),
            None,
        ]

    return desk.on(make.click, fill, [name, overlap, kind, file], [chosen, told, file], progress="minimal")


# ---- settings -------------------------------------------------------------------------------------------------


def _settings(desk: Desk, chosen: Any) -> tuple[Any, list[Any]]:
    gr, say = desk.gr, desk.say
    with gr.Row(elem_classes="bar"):
        state = gr.Textbox(label=say("field.state"), interactive=False, max_lines=1)
        buttons = {name: gr.Button(say(f"campaigns.{name}"), size="lg") for name in STATES}
    fields: dict[str, Any] = {}
    with gr.Row():
        for name in ("order", "rationale", "view"):
            fields[name] = gr.Radio(label=say(f"field.{name}"), choices=list(CHOICES[name]))
    with gr.Row():
        for name in SHARES:
            fields[name] = gr.Slider(
                0, 1, step=0.01, label=say(f"field.{name}"), info=say(f"field.{name}.info"), buttons=[]
            )
        fields["qualification_items"] = gr.Number(
            label=say("field.qualification_items"), precision=0, minimum=0, maximum=100
        )
    with gr.Row(elem_classes="switches"):
        for name in SWITCHES:
            fields[name] = gr.Checkbox(label=say(f"field.{name}"))
    with gr.Row():
        for name in LISTS:
            fields[name] = gr.Textbox(label=say(f"field.{name}"), info=say(f"field.{name}.info"), lines=4, max_lines=12)
    fields["content_warning"] = gr.Textbox(label=say("field.content_warning"), lines=2, max_lines=6)
    save = gr.Button(say("save"), variant="primary")
    told = gr.HTML()
    form = [fields[name] for name in FIELDS]

    def show(call: Call, campaign_id: int) -> list[Any]:
        with desk.store.reading() as connection:
            found = campaigns.find(connection, campaign_id)
        return [state_in(call, found.state), *(field_value(found.settings, name) for name in FIELDS)]

    def change(call: Call, campaign_id: int | None, **changes: Any) -> Campaign:
        number = named(campaign_id)
        found = desk.store.write(
            lambda connection: campaigns.change(connection, number, actor_id=call.manager.id, at=call.at, **changes)
        )
        desk.dashboard.forget(number)
        return found

    def keep(call: Call, campaign_id: int | None, *values: Any) -> list[Any]:
        settings = settings_of(dict(zip(FIELDS, values, strict=True)))
        found = change(call, campaign_id, settings=settings)
        return [said(call.words["saved"].format(name=found.name))]

    desk.on(save.click, keep, [chosen, *form], [told])
    for name, button in buttons.items():

        def turn(call: Call, campaign_id: int | None, name: str = name) -> list[Any]:
            found = change(call, campaign_id, state=name)
            return [state_in(call, found.state), said(call.words["saved"].format(name=found.name))]

        desk.on(button.click, turn, [chosen], [state, told])
    return show, [state, *form]


def state_in(call: Call, state: str) -> str:
    """A state as the page says it."""
    return call.words[f"value.{state}"]


def field_value(settings: CampaignSettings, name: str) -> Any:
    """What a field of the form shows."""
    value = getattr(settings, name)
    if name == "aspects":
        return "\n".join(f"{aspect.name}: {aspect.levels}" for aspect in value)
    return "\n".join(value) if name in LISTS else value


def settings_of(values: dict[str, Any]) -> CampaignSettings:
    """The settings that a form's fields say.

    Raises:
        CampaignError: a value is not allowed.
        Mistake: an aspect or a number is not written as one.
    """
    given = dict(values)
    for name in ("skip_reasons", "flag_reasons"):
        given[name] = _lines(given[name])
    given["aspects"] = tuple(_aspect(line) for line in _lines(given["aspects"]))
    given["qualification_items"] = number_of(given["qualification_items"], "field.qualification_items")
    given["content_warning"] = (given["content_warning"] or "").strip()
    return CampaignSettings(**given)


def _lines(text: str | None) -> tuple[str, ...]:
    return tuple(line.strip() for line in (text or "").splitlines() if line.strip())


def _aspect(line: str) -> Aspect:
    name, colon, levels = line.rpartition(":")
    if not colon:
        raise Mistake("mistake.no_levels", aspect=line)
    if not levels.strip().isdecimal():
        raise Mistake("mistake.levels", aspect=line, levels=levels.strip())
    return Aspect(name.strip(), int(levels))


# ---- guidelines -----------------------------------------------------------------------------------------------


def _guidelines(desk: Desk, chosen: Any) -> tuple[Any, list[Any]]:
    gr, say = desk.gr, desk.say
    version = gr.HTML()
    with gr.Row(equal_height=False, elem_classes="beside"):
        text = gr.Textbox(
            label=say("field.guidelines"),
            info=say("field.guidelines.info"),
            lines=18,
            max_lines=40,
            elem_id="guidelines-text",
        )
        preview = gr.HTML(label=say("preview"), show_label=True, elem_classes="rendered-frame", container=True)
    with gr.Row():
        look = gr.Button(say("preview"))
        save = gr.Button(say("guidelines.save"), variant="primary")
    told = gr.HTML()

    def show(call: Call, campaign_id: int) -> list[Any]:
        with desk.store.reading() as connection:
            found = campaigns.newest_guideline(connection, campaign_id)
        if found is None:
            return [said(call.words["guidelines.none"]), "", ""]
        return [said(call.words["guidelines.version"].format(version=found.version)), found.text, _rendered(found.text)]

    def keep(call: Call, campaign_id: int | None, written: str) -> list[Any]:
        number = named(campaign_id)
        found = desk.store.write(
            lambda connection: campaigns.write_guideline(
                connection, number, written or "", actor_id=call.manager.id, at=call.at
            )
        )
        message = said(call.words["guidelines.version"].format(version=found.version))
        return [message, _rendered(found.text), said(call.words["guidelines.saved"].format(version=found.version))]

    desk.on(look.click, lambda call, written: [_rendered(written or "")], [text], [preview])
    desk.on(save.click, keep, [chosen, text], [version, preview, told])
    return show, [version, text, preview]


def _rendered(text: str) -> str:
    return f'<div class="rendered">{render(text)}</div>'


# ---- gold -----------------------------------------------------------------------------------------------------


def _gold(desk: Desk, chosen: Any) -> tuple[Any, list[Any]]:
    gr, say = desk.gr, desk.say
    with gr.Row(elem_classes="bar"):
        start = gr.Number(label=say("gold.start"), value=1, precision=0, minimum=1, scale=0, min_width=140)
        only_gold = gr.Checkbox(label=say("gold.only"), value=False, scale=0, min_width=200)
        find = gr.Button(say("gold.find"), scale=0, min_width=140)
    items = desk.table(elem_id="gold-items", js_on_load=PICK)
    with gr.Row(elem_classes="bar"):
        number = gr.Number(label=say("gold.number"), precision=0, minimum=1, scale=0, min_width=140)
        look = gr.Button(say("gold.show"), scale=0, min_width=140)
    texts = gr.Textbox(label=say("gold.texts"), interactive=False, lines=6, max_lines=20)
    with gr.Row():
        ranks = gr.Textbox(label=say("gold.ranks"), info=say("gold.ranks.info"), max_lines=1)
        kind = gr.Radio(label=say("field.gold_kind"), choices=list(KINDS), value=GOLD)
    with gr.Row():
        mark = gr.Button(say("gold.mark"), variant="primary")
        unmark = gr.Button(say("gold.unmark"))
    file = upload(gr, say("gold.file"))
    from_file = gr.Button(say("gold.from_file"))
    told = gr.HTML()

    def listed(call: Call, campaign_id: int, begin: Any = 1, only: bool = False) -> str:
        rows = managing.list_items(
            desk.store, campaign_id, start=number_of(begin or 1, "gold.start"), only_gold=bool(only)
        )
        columns = (("item", "count"), ("kind", "text"), ("right_ranks", "text"), ("prompt", "text"))
        shown_ranks = [None if row.gold is None else ", ".join(map(str, row.gold)) for row in rows]
        found = zip(rows, shown_ranks, strict=True)
        table = Table(columns, tuple((row.id, row.kind, gold, row.prompt) for row, gold in found))
        title = call.words["gold.items"]
        return table_html(table, call.words, title, translated=("kind",), button="item", captioned=True, whole=False)

    def unseen(call: Call, campaign_id: int, kind: str) -> str:
        """What to do where nobody is given items of this kind."""
        with desk.store.reading() as connection:
            settings = campaigns.find(connection, campaign_id).settings
        given = settings.gold_share if kind == GOLD else settings.qualification_items
        return "" if given else f" {call.words[f'gold.unseen.{kind}']}"

    def list_again(call: Call, campaign_id: int | None, begin: Any, only: bool) -> list[Any]:
        return [listed(call, named(campaign_id), begin, only)]

    def show_item(call: Call, campaign_id: int | None, item: Any) -> list[Any]:
        found = managing.item_texts(desk.store, named(campaign_id), number_of(item, "gold.number"))
        return [_texts(found), "" if found.gold is None else ", ".join(map(str, found.gold))]

    def pick(call: Call, campaign_id: int | None, picked: Any) -> list[Any]:
        item_id = number_of(picked["item"] if isinstance(picked, dict) else picked, "gold.number")
        return [item_id, *show_item(call, campaign_id, item_id)]

    def keep(
        call: Call, campaign_id: int | None, item: Any, given: str, kind: str, begin: Any, only: bool
    ) -> list[Any]:
        own, item_id = named(campaign_id), number_of(item, "gold.number")
        right = {item_id: ranks_of(given)}
        managing.mark_gold(desk.store, own, right, kind=kind, by=call.manager.id, at=call.at)
        desk.dashboard.forget(own)
        message = call.words["gold.marked"].format(item=item_id)
        return [listed(call, own, begin, only), said(f"{message}{unseen(call, own, kind)}")]

    def take_back(call: Call, campaign_id: int | None, item: Any, begin: Any, only: bool) -> list[Any]:
        own, item_id = named(campaign_id), number_of(item, "gold.number")
        managing.unmark_gold(desk.store, own, item_id, by=call.manager.id, at=call.at)
        desk.dashboard.forget(own)
        return [listed(call, own, begin, only), said(call.words["gold.unmarked"].format(item=item_id))]

    def read(call: Call, campaign_id: int | None, path: str | None, kind: str) -> list[Any]:
        if not path:
            raise Mistake("mistake.no_file")
        own = named(campaign_id)
        marked, added = managing.mark_gold_from_file(
            desk.store, own, Path(path), kind=kind, by=call.manager.id, at=call.at
        )
        desk.dashboard.forget(own)
        message = call.words["gold.read"].format(marked=marked, added=added)
        return [listed(call, own), said(f"{message}{unseen(call, own, kind)}"), None]

    desk.on(find.click, list_again, [chosen, start, only_gold], [items])
    desk.on(look.click, show_item, [chosen, number], [texts, ranks])
    desk.on(items.pick, pick, [chosen], [number, texts, ranks], with_event=True)
    desk.on(mark.click, keep, [chosen, number, ranks, kind, start, only_gold], [items, told])
    desk.on(unmark.click, take_back, [chosen, number, start, only_gold], [items, told])
    desk.on(from_file.click, read, [chosen, file, kind], [items, told, file], progress="minimal")
    return lambda call, campaign_id: [listed(call, campaign_id)], [items]


def _texts(found: managing.ItemTexts) -> str:
    messages = [f"[{role}]\n{content}" for role, content in found.messages]
    responses = [f"── {number} ──\n{text}" for number, text in enumerate(found.responses, start=1)]
    return "\n\n".join((*messages, *responses))


def ranks_of(text: str | None) -> Sequence[int]:
    """Ranks as a manager writes them: "1, 2" or "2 1 1".

    Raises:
        Mistake: these are no numbers.
    """
    parts = [part for part in re.split(r"[\s,;]+", text or "") if part]
    if not parts or not all(part.isdecimal() and part.isascii() and len(part) <= 2 for part in parts):
        raise Mistake("mistake.ranks", ranks=text or "")
    return [int(part) for part in parts]


# ---- members --------------------------------------------------------------------------------------------------


def _members(desk: Desk, chosen: Any) -> tuple[Any, list[Any]]:
    gr, say = desk.gr, desk.say
    gr.Markdown(say("members.hint"))
    people = desk.choice(label=say("campaigns.members"), multiselect=True)
    save = gr.Button(say("save"), variant="primary")
    told = gr.HTML()

    def show(call: Call, campaign_id: int) -> list[Any]:
        accounts = [each for each in desk.service.accounts.accounts() if each.name is not None]
        own = [each.annotator for each in managing.members(desk.store, campaign_id)]
        known = {each.id for each in accounts}
        choices = [(f"{each.name} ({each.id})", each.id) for each in accounts] + [
            (each, each) for each in own if each not in known
        ]
        return [gr.Dropdown(choices=choices, value=own)]

    def keep(call: Call, campaign_id: int | None, wanted: Sequence[str] | None) -> list[Any]:
        number = named(campaign_id)
        managing.set_members(desk.store, number, list(wanted or ()), by=call.manager.id, at=call.at)
        return [said(call.words["members.saved"].format(count=len(wanted or ())))]

    desk.on(save.click, keep, [chosen, people], [told])
    return show, [people]


assert set(FIELDS) == {field.name for field in dataclasses.fields(CampaignSettings)}
