"""Data in and out: more items for a campaign, and exports as archives."""

from __future__ import annotations

import html
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from annotation import campaigns, managing
from annotation.admin.campaigns_tab import named, upload
from annotation.admin.dashboard_tab import API
from annotation.admin.desk import Call, Desk, Mistake, links, number_of, said
from annotation.assignment import GOLD, QUALIFICATION
from annotation.exporting.options import AGGREGATIONS, CONTAINERS, FORMS, WHEN_SPLIT

SWITCHES = ("plain", "edit_pairs", "best", "include_gold")


def build(desk: Desk, chosen: Any) -> tuple[Any, list[Any]]:
    """Components and events of the tab. Returns what fills its list of people, a function of the call, and the list.

    An export is of the campaign that is `chosen`, unless others are given.
    """
    gr, say = desk.gr, desk.say
    gr.Markdown(say("data.export.title"))
    with gr.Row():
        form = gr.Radio(label=say("data.form"), info=say("data.form.info"), choices=list(FORMS), value=FORMS[0])
        container = gr.Radio(
            label=say("data.container"), choices=[each for each in CONTAINERS if each != "csv"], value=CONTAINERS[0]
        )
    with gr.Row():
        aggregation = gr.Dropdown(
            label=say("data.aggregation"), info=say("data.aggregation.info"), choices=["", *AGGREGATIONS], value=""
        )
        when_split = gr.Radio(label=say("data.when_split"), choices=list(WHEN_SPLIT), value=WHEN_SPLIT[0])
        threshold = gr.Slider(0, 1, value=0.5, step=0.01, label=say("data.threshold"), buttons=[])
    with gr.Row():
        validation_share = gr.Slider(0, 0.9, value=0, step=0.01, label=say("data.validation_share"), buttons=[])
        seed = gr.Number(label=say("data.seed"), value=0, precision=0)
        own = desk.choice(label=say("data.campaigns"), multiselect=True)
        without = desk.choice(label=say("data.without"), multiselect=True)
    with gr.Row(elem_classes="switches"):
        switches = [gr.Checkbox(label=say(f"data.{name}")) for name in SWITCHES]
    export = gr.Button(say("data.export"), variant="primary")
    made = gr.HTML()
    gr.Markdown(say("data.import.title"))
    with gr.Row():
        file = upload(gr, say("field.file"))
        kind = gr.Radio(label=say("field.gold_kind"), choices=[GOLD, QUALIFICATION], value=GOLD)
    add = gr.Button(say("data.import"))
    added = gr.HTML()

    def campaign_choices(call: Call, campaign_id: int | None) -> list[Any]:
        with desk.store.reading() as connection:
            found = campaigns.all_campaigns(connection)
        value = [each.name for each in found if each.id == campaign_id]
        return [gr.Dropdown(choices=[each.name for each in found], value=value)]

    def show(call: Call) -> list[Any]:
        people = [(f"{each.name or each.id} ({each.id})", each.id) for each in desk.service.accounts.accounts()]
        states = [(call.words[f"data.without.{state}"], state) for state in ("paused", "closed")]
        return [gr.Dropdown(choices=[*states, *people])]

    def write(call: Call, *values: Any) -> list[Any]:
        options = options_of(*values)
        archive = desk.archives.make(options, by=call.manager.id)
        rows = ", ".join(f"{split} {count}" for split, count in archive.rows.items())
        gone = "".join(f"<li>{html.escape(reason)}: {count}</li>" for reason, count in archive.left_out.items())
        left = f"<p>{html.escape(call.words['data.left_out'])}</p><ul>{gone}</ul>" if gone else ""
        command = html.escape(command_line(desk.store.address, options))
        return [
            said(call.words["data.made"].format(rows=rows))
            + links([(archive.name, f"{API}/exports/{archive.id}")])
            + left
            + f'<p class="soft">{html.escape(call.words["data.command"])}</p><pre class="command">{command}</pre>'
        ]

    def fill(call: Call, campaign_id: int | None, path: str | None, kind: str) -> list[Any]:
        if not path:
            raise Mistake("mistake.no_file")
        with desk.store.reading() as connection:
            found = campaigns.find(connection, named(campaign_id))
        done = managing.fill_campaign(
            desk.store, Path(path), found.name, gold_kind=kind, by=call.manager.id, at=call.at
        )
        desk.dashboard.forget(found.id)
        return [said(call.words["campaigns.made"].format(name=found.name, done=done)), None]

    fields = [form, container, aggregation, when_split, threshold, validation_share, seed, own, without, *switches]
    desk.on(chosen.change, campaign_choices, [chosen], [own])
    desk.on(export.click, write, fields, [made], progress="minimal")
    desk.on(add.click, fill, [chosen, file, kind], [added, file], progress="minimal")
    return show, [without]


def options_of(
    form: str,
    container: str,
    aggregation: str | None,
    when_split: str,
    threshold: float,
    validation_share: float,
    seed: Any,
    own: Sequence[str] | None,
    without: Sequence[str] | None,
    *switches: bool,
) -> dict[str, Any]:
    """The form's fields as keyword arguments of `annotation.export.export_dataset`; what does not apply is left out."""
    options = {
        "form": form,
        "container": "" if form == "csv" else container,
        "aggregation": "" if form == "csv" else aggregation or "",
        "when_split": when_split,
        "threshold": threshold if aggregation == "dawid_skene" and form != "csv" else None,
        "validation_share": float(validation_share or 0),
        "seed": number_of(seed, "data.seed"),
        "campaigns": list(own or ()),
        "without_annotators": list(without or ()),
    }
    return options | {name: bool(value) for name, value in zip(SWITCHES, switches, strict=True)}


def command_line(address: str, options: Mapping[str, Any]) -> str:
    """What gives the same export on the command line."""
    parts = ["rlhf", "annotate", "export", "--store", address, "--out", "exported", "--format", options["form"]]
    for name, flag in (("container", "container"), ("aggregation", "aggregation"), ("threshold", "threshold")):
        if options[name] not in ("", None):
            parts += [f"--{flag}", str(options[name])]
    if options["when_split"] != WHEN_SPLIT[0]:
        parts += ["--when_split", options["when_split"]]
    if options["validation_share"]:
        parts += ["--validation_share", str(options["validation_share"]), "--seed", str(options["seed"])]
    for name, flag in (("campaigns", "campaign"), ("without_annotators", "without_annotators")):
        if options[name]:
            parts += [f"--{flag}", *options[name]]
    return shlex.join([*parts, *(f"--{name}" for name in SWITCHES if options[name])])
