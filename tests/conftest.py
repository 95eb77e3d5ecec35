"""What all tests share: reproducible property tests, in an interpreter that does not import torch for it."""

from hypothesis import settings

settings.register_profile("nasdeploy", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("nasdeploy")
