"""Damaged bundles (bits, ends, blocks, swapped manifests) given to verify, bench and predict.py: all refused in a line.

    python tests/benchmarks/bench_damage.py [--count 200]

Everything runs in this process, so that a crash would end it, and predict.py as it was written.
"""

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path
from shutil import copytree, rmtree
from time import perf_counter

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.exporting.bundle.damage import damage, refusals
from tests.exporting.models import exporter, jobs
from tests.small_spaces import one_stage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    count = parser.parse_args().count
    with tempfile.TemporaryDirectory() as name:
        root, space = Path(name), one_stage()
        made = exporter(root, recalibrate=False)
        made.export(space.named["t0"], root / "good", jobs())
        made.export(space.smallest(), root / "other", jobs())
        start, kinds, wrong = perf_counter(), Counter(), []
        for number in range(count):
            bundle = copytree(root / "good", root / "bundle")
            what = damage(bundle, root / "other", number)
            kinds[what] += 1
            found = refusals(bundle, root / "images/test/ant")
            wrong += [f"{what}, {command}: {problem}" for command, problem in found.items() if problem]
            rmtree(bundle)
        print(f"{count} damaged bundles in {perf_counter() - start:.1f} s; commands that did not refuse: {len(wrong)}")
        for what, times in sorted(kinds.items()):
            print(f"  {times:>3} x {what}")
        print("\n".join(wrong))
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
