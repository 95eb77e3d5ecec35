"""Classification of images: one label for each picture, scored by the part of the pictures that get theirs.

Torch-free until data is opened or something is computed.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING

from nasdeploy.core.plan import Plan
from nasdeploy.core.score import Score
from nasdeploy.data.settings import DataSettings
from nasdeploy.tasks.metrics import TOP1
from nasdeploy.tasks.task import Inputs, Objective, Task, TaskData

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from nasdeploy.nn.network import PartRunner
    from nasdeploy.store.run import Run
    from nasdeploy.training.settings import TrainSettings


class Classification(Task):
    """Classification of square RGB images `[N, 3, S, S]` into `classes`, by logits `[N, classes]`."""

    name = "classification"
    metric = TOP1
    data_settings = DataSettings
    delivery = "pictures"

    def open(self, settings: DataSettings, seed: int, run: "Run | None" = None) -> TaskData:
        """Return the images that the settings name, split by `seed` or as `run` remembers it; see `Task.open`."""
        from nasdeploy.tasks.image_data import ImageData

        return ImageData.open(settings, seed, run)

    def outputs(self, network: "PartRunner", inputs: Inputs) -> "Tensor":
        """Return logits `[N, classes]`; images of any side are rescaled to that of the plan."""
        (logits,) = network.run(network.plan.only.name, *inputs)
        return logits

    def objective(self, settings: "TrainSettings", data: TaskData) -> Objective:
        """Return cross-entropy with the recipe's label smoothing and class weights, and its distillation."""
        from nasdeploy.tasks.image_data import ImageData, distillation_loss, label_loss

        weights = data.class_weights if isinstance(data, ImageData) else None

        @cache
        def weights_on(device: "torch.device") -> "Tensor | None":
            return None if weights is None else weights.to(device)

        def label(logits: "Tensor", labels: "Tensor") -> "Tensor":
            return label_loss(logits, labels, settings.label_smoothing, weights_on(logits.device))

        found = settings.distillation
        return Objective(label, distillation_loss(found), found.beta, found.label_weight)

    def divergence(self, outputs: "Tensor", reference: "Tensor") -> "Tensor":
        """Return the mean Kullback-Leibler divergence of logits `[N, classes]` from those of a reference, in nats."""
        from nasdeploy.tasks.image_data import kl_divergence

        return kl_divergence(outputs, reference)

    def score_outputs(self, batches: "Iterable[tuple[Tensor, Tensor]]") -> Score:
        """Return top-1 and mean cross-entropy; logits that are not finite are wrong, whatever the largest is."""
        from nasdeploy.tasks.image_data import score_logits

        return score_logits(batches)

    def sample_scores(self, outputs: "Tensor", targets: "Tensor") -> "tuple[Tensor, Tensor]":
        """Return whether logits `[N, classes]` are right, as 1 and 0, and the cross-entropy, of each image `[N]`."""
        from nasdeploy.tasks.image_data import sample_scores

        return sample_scores(outputs, targets)

    def tensor_names(self, plan: Plan) -> Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]:
        """Return `input` and `logits` for the one part of the network."""
        return {plan.only.name: (("input",), ("logits",))}
