"""A recipe for training one network alone: the baseline that inherited weights are compared with. Torch-free."""

from nasdeploy.recipe import Recipe, parse_recipe
from nasdeploy.spaces.kind import GivenSpace
from nasdeploy.spaces.resolve import resolve_arch


def train_alone(recipe: Recipe, text: str) -> Recipe:
    """Return the recipe with nothing but the architecture that `text` means trained.

    Raises `UserError` if there is none.
    """
    # Architectures are the same for any size of output; a space that is an object has the one that it was made with.
    size = recipe.space.output_size if isinstance(recipe.space, GivenSpace) else 1
    arch = resolve_arch(text, recipe.load_space(size), (), option="`alone`")
    content = recipe.to_json()
    content["train"]["sampling"] = {"kind": "alone", "arch": arch.to_json()}
    return parse_recipe(content, "`alone`").model_copy(update={"space": recipe.space})
