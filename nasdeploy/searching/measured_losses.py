"""The losses of cuts of a supernet's largest network, measured on held-out samples, one after the other.

Each is kept before the next one is measured, so that what was stopped goes on where it was.
"""

from collections.abc import Sequence
from pathlib import Path

from nasdeploy.core.progress import Progress
from nasdeploy.searching.loss_table import ENOUGH, LossTable, read_loss_table, write_loss_table
from nasdeploy.supernet.evaluate import Evaluator
from nasdeploy.tasks.task import Outputs


def measure_losses(evaluator: Evaluator, path: Path, supernet: str, progress: Progress) -> LossTable:
    """Return the table of loss of a supernet (a digest), kept in a file; what is known of it is not measured again.

    What outputs are compared with are those of the original, the largest network: with weights of its own where it has
    some, else the supernet's. Raises `UserError` for a damaged file, and for a task that has no divergence.
    """
    space, table = evaluator.space, read_loss_table(path)
    if table is not None and (table.space, table.supernet) != (space.digest, supernet):
        table = None
    if table is not None and not table.missing(space):
        return table
    reference = list(evaluator.outputs(evaluator.network(space.largest()), 0, _end(evaluator)))
    if table is None or table.samples != _samples(reference):
        table = _begun(evaluator, supernet, reference)
    missing = table.missing(space)
    with progress.task("table of loss", len(missing)) as task:
        for cut in missing:
            network = evaluator.network(cut.arch, inherited=True)
            loss = evaluator.divergence(network, reference, 0, _end(evaluator))
            table = table.with_loss(cut.arch, loss)
            write_loss_table(path, table)
            task.advance(note=f"{loss:.3g} for {cut}")
    return table


def _begun(evaluator: Evaluator, supernet: str, reference: Sequence[tuple[int, Outputs]]) -> LossTable:
    """Return a table without entries."""
    space, largest = evaluator.space, evaluator.space.largest()
    table = LossTable(space=space.digest, supernet=supernet, samples=_samples(reference))
    if largest not in evaluator.own:
        return table
    inherited = evaluator.network(largest, inherited=True)
    return table.with_whole(evaluator.divergence(inherited, reference, 0, _end(evaluator)))


def _end(evaluator: Evaluator) -> int | None:
    """Return where the samples end that losses are measured on: the first ones, which stand for all."""
    return ENOUGH if evaluator.samples > ENOUGH else None


def _samples(reference: Sequence[tuple[int, Outputs]]) -> int:
    return sum(count for count, _ in reference)
