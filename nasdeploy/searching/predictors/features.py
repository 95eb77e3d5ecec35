"""What accuracy is predicted from: each choice one-hot (OFA, section 4.1). Torch-free."""

import numpy as np

from nasdeploy.core.costs import Floats
from nasdeploy.core.space import Codes, SearchSpace


class OneHot:
    """One column for each value of each choice of a space, 1 where an architecture has it."""

    def __init__(self, space: SearchSpace) -> None:
        sizes = [len(choice.values) for choice in space.choices]
        self.width = sum(sizes)
        self._first = np.cumsum([0, *sizes[:-1]])

    def parts(self, columns: Floats) -> list[Floats]:
        """One array `[values]` for each choice, of columns `[width]`."""
        return np.split(columns, self._first[1:])

    def __call__(self, codes: Codes) -> Floats:
        """Features `[n, width]` of codes `[n, choices]`."""
        features = np.zeros((len(codes), self.width))
        features[np.arange(len(codes))[:, None], self._first + codes] = 1.0
        return features
