"""The front that a search shows while it runs."""

from dataclasses import replace

from nasdeploy.searching.problem import GrowingFront, Problem, candidates_of, pareto_front
from nasdeploy.tasks.metrics import TOP1
from tests.latency.tables import SPACE, archs, table
from tests.searching.accuracy import evaluation
from tests.searching.budgets import budget_of

TABLE = table()


def test_it_is_the_front_of_all_that_was_added_within_the_budget():
    problem = Problem(SPACE, budget_of(latency=2.5e-3), TABLE)
    growing = GrowingFront(problem, TOP1)
    for place, arch in enumerate(archs()):
        growing.add(arch, evaluation(arch))
        if place % 7 == 0:
            growing.rows()
    every = candidates_of(problem, archs(), [evaluation(arch) for arch in archs()])
    assert growing.front == pareto_front([c for c in every if problem.allows(c.costs)], problem.axis.name)


def test_rows_begin_with_the_best_and_name_every_bounded_cost():
    problem = Problem(SPACE, budget_of(latency=1.0, params=1e6), TABLE)
    growing = GrowingFront(problem, TOP1)
    assert growing.rows() == []
    for arch in archs():
        growing.add(arch, evaluation(arch))
    heading, first, *others = growing.rows()
    assert heading == ["best so far", "top-1 in %", "latency", "parameters"]
    best = growing.front[-1]
    assert first[0] == best.arch.digest
    assert first[2:] == [f"{1e3 * best.costs['latency on cpu']:.4g} ms", f"{best.costs['params'] / 1e6:.4g} M"]
    assert [row[0] for row in others] == [c.arch.digest for c in reversed(growing.front[:-1])][:7]


def test_what_was_stopped_early_does_not_count():
    growing = GrowingFront(Problem(SPACE, budget_of(macs=1e9)), TOP1)
    growing.add(archs()[0], replace(evaluation(archs()[0]), whole=False))
    assert growing.rows() == []
