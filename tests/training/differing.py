"""One of two processes that compare numbers, the same ones and different ones; it fails if a comparison does."""

from nasdeploy.distributed.ranks import joined

with joined() as ranks:
    found = [ranks.same(7), ranks.same(-3), ranks.same(ranks.rank), ranks.same(7 - 2 * ranks.rank)]
    assert found == [True, True, False, False], found
