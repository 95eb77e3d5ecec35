"""Predictors of accuracy. A new kind of model is a file of this package and a line here. Torch-free."""

from collections.abc import Mapping

from nasdeploy.searching.predictors.models import Kind, Mean, Ridge
from nasdeploy.searching.predictors.perceptron import Perceptron

KINDS: Mapping[str, Kind] = {"mean": Mean(), "linear": Ridge(), "mlp": Perceptron()}
