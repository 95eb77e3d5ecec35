"""A recipe for training one network alone: the baseline that inherited weights are compared with. Torch-free."""

from nasdeploy.exporting.choose import resolve_arch
from nasdeploy.recipe import Recipe, parse_recipe


def train_alone(recipe: Recipe, text: str) -> Recipe:
    """The recipe with nothing but the architecture that `text` means trained; raises `UserError` if there is none."""
    # Architectures are the same for any number of classes.
    arch = resolve_arch(text, recipe.load_space(1), (), option="--alone")
    content = recipe.to_json()
    content["train"]["sampling"] = {"kind": "alone", "arch": arch.to_json()}
    return parse_recipe(content, "--alone")
