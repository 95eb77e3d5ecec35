"""Two processes of which the second one vanishes; the first one goes on reducing. They have torchrun's variables."""

import os
import sys

import torch

from nasdeploy.core.errors import NasdeployError
from nasdeploy.distributed.ranks import joined


def losing() -> None:
    """Be one of the two."""
    try:
        with joined() as ranks:
            if not ranks.first:
                os._exit(9)
            while True:
                ranks.average([], torch.zeros(4))
    except NasdeployError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
