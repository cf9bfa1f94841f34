"""What a worker does with a live prompt, without a model."""

from __future__ import annotations

import time

from annotation.live import make_item
from annotation.store import Store
from annotation.tables import live_request
from rlhf.data.comparisons import Response
from tests.browser.server import Server


class Model:
    """Answers a live prompt as a worker would, a few words at a time."""

    def __init__(self, server: Server):
        self.server = server

    def grow(self, texts: tuple[str, str], done: bool = False) -> None:
        (request_id,) = self.server.rows("SELECT id FROM live_request ORDER BY created_at DESC LIMIT 1")[0]
        self.server.change("UPDATE live_request SET state = 'running' WHERE id = ?", request_id)
        for position, text in enumerate(texts):
            self.server.change(
                "INSERT INTO live_answer (request_id, position, text, sampling, seed, finish_reason) "
                "VALUES (?1, ?2, ?3, '{}', ?2, ?4) "
                "ON CONFLICT DO UPDATE SET text = ?3, finish_reason = ?4",
                request_id,
                position,
                text,
                "stop" if done else None,
            )
        if done:
            store = Store.open(self.server.store_url)
            answers = [(None, Response(text, seed=position)) for position, text in enumerate(texts)]

            def finish(connection) -> None:
                request = connection.execute(live_request.select().where(live_request.c.id == request_id)).one()
                item_id, _ = make_item(connection, request, answers, now=time.time())
                values = {"state": "done", "item_id": item_id, "finished_at": time.time()}
                connection.execute(live_request.update().where(live_request.c.id == request_id).values(values))

            store.write(finish)
            store.close()
