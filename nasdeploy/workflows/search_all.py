"""A search in each of several precisions, and the best network of all.

Scores are those of the networks in their precision (`nasdeploy.workflows.int8_accuracy`).
"""

from collections.abc import Sequence

from nasdeploy.core.errors import InfeasibleBudget
from nasdeploy.core.progress import Progress
from nasdeploy.searching.result import SearchResult
from nasdeploy.workflows.history import keep
from nasdeploy.workflows.request import SearchRequest
from nasdeploy.workflows.search import facts, search


def search_all(requests: Sequence[SearchRequest], progress: Progress) -> SearchResult | None:
    """Search in each precision; return the result with the best winner, which is the run's result from then on.

    None in processes that only help, which there are for a single request. Raises `InfeasibleBudget` if no search finds
    a network that meets the budget when it is measured.
    """
    if len(requests) == 1:
        return search(requests[0], progress)
    found: list[tuple[SearchRequest, SearchResult]] = []
    refusals = []
    for request in requests:
        try:
            result = search(request, progress)
        except InfeasibleBudget as error:
            refusals.append(error)
            progress.say(f"search: {error}")
            continue
        assert result is not None  # There is one process, which has the result.
        found.append((request, result))
    if not found:
        raise refusals[0]
    request, best = max(found, key=lambda pair: _merit(pair[1]))
    for _, result in found:
        progress.say(_told(result))
    with request.run.lock():
        keep(request.run, best)
        request.run.finish("search", facts(request))
    return best


def _merit(result: SearchResult) -> tuple[float, float]:
    """Return the key that orders results, larger for better ones: the score, then the speed."""
    return result.metric.gain(result.winner.final_value), -(result.winner.measured_ms or 0.0)


def _told(result: SearchResult) -> str:
    winner = result.winner
    score = f"{winner.digest} with {result.metric.text(winner.final_value)}"
    return f"search: in {result.precision}, {score} at {winner.measured_ms:.4g} ms"
