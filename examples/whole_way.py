"""From images to an ONNX file that meets a latency budget: `python whole_way.py [FOLDER]`, by default on digits."""

import sys

import nasdeploy as nd

# A recipe for one's own photographs, in train/CLASS/; or a shipped one, whose training takes some minutes.
recipe = nd.init(sys.argv[1], hours=0.5, progress=True) if len(sys.argv) > 1 else "digits"

run = nd.train(recipe, progress=True)
table = nd.profile(run, "cpu", progress=True)
result = nd.search(run, latency_ms="40%", progress=True)  # of the range that the device reaches; or a number
export = nd.export(run, formats=["onnx"], progress=True)

print(f"measured {len(table.entries)} blocks on {table.conditions.device.name}")
print(f"{result.winner.digest}: {result.winner.measured_ms:.3f} ms")
print(f"wrote {export.models[0]}")
