"""Predictors of accuracy. A new kind of model is a file of this package and a line here. Torch-free."""

from collections.abc import Mapping

from nasdeploy.searching.predictors.deep import DeepPerceptron
from nasdeploy.searching.predictors.models import Kind, Mean, Perceptron, Ridge

KINDS: Mapping[str, Kind] = {"mean": Mean(), "linear": Ridge(), "mlp": Perceptron(), "deep-mlp": DeepPerceptron()}
