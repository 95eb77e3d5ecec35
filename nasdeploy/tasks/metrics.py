"""The metrics of the tasks that come with nasdeploy. Torch-free."""

from nasdeploy.core.score import Metric

TOP1 = Metric(
    key="top1",
    name="top-1",
    maximise=True,
    best=1.0,
    aggregate="proportion",
    scale=100.0,
    unit="%",
    loss_key="cross_entropy",
    samples="images",
)
"""The part of the images whose label has the largest logit."""

UNNAMED: Metric = TOP1
"""The metric of records that name none: those of versions that knew no other."""
