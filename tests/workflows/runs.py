"""Runs as training leaves them, made in a moment."""

from pathlib import Path

from nasdeploy.data.split import split_content
from nasdeploy.latency.table import LatencyTable
from nasdeploy.recipe import parse_recipe
from nasdeploy.runtimes.device import Device
from nasdeploy.store.run import Run
from nasdeploy.supernet import weights
from nasdeploy.supernet.supernet import Supernet
from tests.exporting.models import folder_data, latency_table, supernet_of
from tests.small_spaces import ONE_STAGE, one_stage

SPACE = one_stage()
SEARCH = {"rounds": 1, "parents": 4, "finalists": 2, "probability": 0.5}


def trained_run(root: Path, supernet: Supernet | None = None) -> Run:
    """`runs/x` in the working directory, with pictures below `root`."""
    data, sets = folder_data(root / "images")
    recipe = parse_recipe(
        {
            "name": "x",
            "space": ONE_STAGE.model_dump(mode="json"),
            "data": data.model_dump(mode="json"),
            "recalibration": {"batch_size": 12, "batches": 2, "search_batches": 1},
            "search": SEARCH,
        },
        "recipe",
    )
    made = Run.create(
        Path("runs"),
        "x",
        recipe=recipe.to_json(),
        space=SPACE.digest,
        classes=sets.classes,
        images=sets.fingerprint,
        data=(sets.split.facts, split_content(sets.split)),
        seed=recipe.seed,
    )
    weights.save(made.checkpoints / "epoch-000001.pt", supernet or supernet_of(SPACE))
    made.finish("train", {})
    return made


def table_of(device: Device, seconds: float = 1e-4) -> LatencyTable:
    """A table of the space in which every block takes so long, as if it had been measured on `device`."""
    made = latency_table(SPACE, seconds)
    conditions = made.conditions.model_copy(update={"device": device})
    return LatencyTable.fitted(conditions, made.created, made.entries, made.networks)
