"""Importers: networks of other libraries as the tables of their blocks, with their weights."""

from nasdeploy.importers.importer import Importer
from nasdeploy.importers.timm import Timm
from nasdeploy.importers.torchvision import Torchvision

IMPORTERS: dict[str, Importer] = {"timm": Timm(), "torchvision": Torchvision()}
"""The importer of each library, by what stands before the colon in `--from`."""
