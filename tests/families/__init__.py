"""A family that is nothing like an image classifier: it reads frames once, and then writes one token after another.

The encoder takes frames `[length, features]` (floats) and gives a memory and a summary of it; it runs once a sample.
The step takes both and the last tokens (integers) and gives the logits of the next one; it runs `WRITTEN` times. Blocks
normalise by layer, so that no network needs calibration. The logits are computed with the embedding's weights.

`register()` makes the blocks known to `nasdeploy.nn`; tests do so for themselves with the fixture `writer_families`.
"""
