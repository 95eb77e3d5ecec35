"""An `adb` whose phones are directories of this machine, and a benchmark program that runs there.

Both are scripts of the shell, since each visit calls both. What goes wrong stands in files beside the directories, so
that tests can change it meanwhile. A model is a text that says how many microseconds a call takes, or how the program
fails; any other is run by LiteRT.
"""

import json
import os
import sys
import time
from pathlib import Path
from statistics import mean, median

from tests.latency.runners.boards import script

_ADB = """#!/bin/sh
state=STATE
serial=$2; shift 2
echo "$*" >> $state/commands
number=$(grep -c "" $state/commands)
failure=$(cat $state/failure)
case $serial in phone-[12]) ;; *) failure=absent;; esac
if grep -qx $number $state/lost; then failure=absent; fi
case $failure in
absent) echo "adb: device '$serial' not found" >&2; exit 1;;
offline) echo "adb: device offline" >&2; exit 1;;
unauthorized)
    printf "adb: device unauthorized.\\nThis adb server's keys are not set\\nOtherwise look at its screen.\\n" >&2
    exit 1;;
esac
place=$state/$serial
case $1 in
push)
    if [ $(wc -c < $2) -gt $(cat $state/room) ]; then
        echo "adb: error: failed to copy '$2' to '$3': remote write failed: No space left on device" >&2
        exit 1
    fi
    cp $2 $place${3#/data/local/tmp}
    echo "$2: 1 file pushed, 0 skipped. 1.2 MB/s";;
shell)
    said=$(PATH=$state/system:$PATH sh -c "$(echo "$2" | sed "s#/data/local/tmp#$place#g")")
    if grep -qx $number $state/cut; then echo "$said" | head -c 20; exit 255; fi
    echo "$said" | sed "s#$place#/data/local/tmp#g";;
esac
"""

_BENCHMARK = """#!/bin/sh
for word; do
    name=${word%%=*}; name=${name#--}
    eval "$name='${word#*=}'"
done
if [ -z "$graph" ]; then
    echo "ERROR: usage: benchmark_model <flags>"
    for name in graph num_runs num_threads use_xnnpack use_gpu; do echo "    --$name=  string  optional"; done
    exit 1
fi
echo "INFO: STARTING!"
said=$(head -c 20 $graph | tr -d '\\0')
case $said in
takes*)
    us=${said#takes }
    awk -v us=$us -v least=$num_runs -v seconds=$min_secs -v warmup=$warmup_runs 'BEGIN {
        runs = int(seconds * 1e6 / us); if (runs < least) runs = least
        print "INFO: count=" warmup " curr=" us "\\n"
        print "INFO: count=" runs " first=" us " curr=" us " min=" us " max=" us " avg=" us " std=0 median=" us "\\n"
        print "INFO: Inference timings in us: Init: 9, First inference: 9, Warmup (avg): 9, Inference (avg): " us
        print "INFO: Memory footprint delta from the start of the tool (MB): init=3.5 overall=4.5" }';;
crash) kill -SEGV $$;;
silent) echo "INFO: nothing to tell";;
refused) echo "ERROR: Op builtin_code out of range: 209."; echo "ERROR: Benchmarking failed."; exit 1;;
*) exec PYTHON SOURCE $graph $num_threads $num_runs;;
esac
"""


class FakePhones:
    """Two phones, `phone-1` and `phone-2`."""

    def __init__(self, state: Path) -> None:
        self.state, self.program = state, state / "benchmark_model"
        for folder in ("bin", "system", "phone-1", "phone-2"):
            (state / folder).mkdir()
        script(state / "bin" / "adb", _ADB.replace("STATE", str(state)))
        script(self.program, _BENCHMARK.replace("PYTHON", sys.executable).replace("SOURCE", __file__))
        self.tell_facts("Pixel 8", "Tensor G3", "15")
        self.tell()

    def tell(self, failure: str = "", room: int = 1 << 30, lost: int = 0, cut: int = 0) -> None:
        """Make what goes wrong: always, for files that are too large, or at the command of a number."""
        for name, value in (("failure", failure), ("room", room), ("lost", lost), ("cut", cut)):
            (self.state / name).write_text(f"{value}\n")

    def tell_facts(self, model: str, soc: str, release: str) -> None:
        """Say what the phones are."""
        known = (
            f"ro.product.model) echo {model};; ro.soc.model) echo {soc};; ro.build.version.release) echo {release};;"
        )
        script(self.state / "system" / "getprop", f"#!/bin/sh\ncase $1 in {known} *.abi) echo arm64-v8a;; esac\n")

    @property
    def commands(self) -> list[str]:
        """What the phones were asked, without the serial numbers."""
        return (self.state / "commands").read_text().splitlines()

    @property
    def visits(self) -> list[str]:
        """The models that were run, in turn, without trials."""
        runs = [line for line in self.commands if "--graph=" in line and "--num_runs=1 " not in line]
        return [line.partition("--graph=")[2].split()[0].rpartition("/")[2] for line in runs]

    def left(self) -> list[Path]:
        """What lies on the phones."""
        return [path for name in ("phone-1", "phone-2") for path in (self.state / name).iterdir()]


def in_path(state: Path) -> str:
    """The search path with the `adb` of a state before all others."""
    return f"{state / 'bin'}:{os.environ['PATH']}"


def run_by_litert(graph: str, threads: int, runs: int) -> None:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(graph, num_threads=threads)
    interpreter.allocate_tensors()
    interpreter.invoke()
    found = []
    for _ in range(runs):
        start = time.perf_counter()
        interpreter.invoke()
        found.append(max(1, round(1e6 * (time.perf_counter() - start))))
    print("INFO: count=1 curr=9\n")
    print(f"INFO: count={runs} curr={found[-1]} avg={mean(found):.6g} median={median(found):g}\n")
    print(f"INFO: Inference timings in us: Inference (avg): {json.dumps(mean(found))}")


if __name__ == "__main__":
    run_by_litert(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
