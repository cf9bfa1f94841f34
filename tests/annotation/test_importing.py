"""What an import says of items that are in the store already."""

from __future__ import annotations

import sqlalchemy as sa

from annotation.importing import Imported, import_comparisons
from annotation.store import Store
from annotation.tables import item
from tests.annotation.items import comparison


def test_gold_and_usefulness_of_items_that_are_there_are_counted_and_not_taken_over(store: Store) -> None:
    rows = [comparison(number) for number in range(4)]
    gold, usefulness = {rows[0].id: (1, 2)}, {rows[1].id: 0.5}
    import_comparisons(store, rows[:3], gold=gold, usefulness=usefulness)
    assert import_comparisons(store, rows[:3], gold=gold, usefulness=usefulness) == Imported(0, 3, 0, 0)
    others = {rows[0].id: (2, 1), rows[2].id: (1, 2)}
    done = import_comparisons(store, rows, gold=others, usefulness={rows[1].id: 3.0, rows[3].id: 1.0})
    assert done == Imported(1, 3, 0, 3)
    assert "3 of those there keep their gold and usefulness" in str(done)
    with store.reading() as connection:
        kept = connection.execute(sa.select(item.c.gold, item.c.usefulness).order_by(item.c.id)).all()
    assert kept == [([1, 2], None), (None, 0.5), (None, None), (None, 1.0)]
