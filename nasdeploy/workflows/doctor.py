"""What nasdeploy has on this machine and what it lacks, with what to do about it. Torch-free, and fast.

It measures nothing and changes nothing. A finding is in order, or a note that one may act on, or a problem that keeps
nasdeploy from working at all.
"""

import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from shutil import disk_usage, which
from typing import Any, Literal

from nasdeploy import __version__
from nasdeploy.core.cpus import bound_cpus, cpu_quota, memory_limit, usable_cpus
from nasdeploy.data.settings import DOWNLOADS
from nasdeploy.latency.machine import governor, processor_name
from nasdeploy.latency.table import TABLES
from nasdeploy.runtimes.cuda import gpu, missing_gpu
from nasdeploy.runtimes.runtime import numbers
from nasdeploy.store.run import RUNS

Verdict = Literal["ok", "note", "problem"]

EXTRAS: Mapping[str, str] = {
    "openvino": "runtime and format OpenVINO, for Intel's processors",
    "ncnn": "runtime and format ncnn, for boards and phones with ARM's processors",
    "mnn": "runtime and format MNN, for boards and phones",
    "litert": "runtime and format LiteRT, for boards and phones",
    "litert-int8": "LiteRT's files in int8",
    "executorch": "runtime and format ExecuTorch",
    "tensorrt-rtx": "engines of TensorRT for RTX, for NVIDIA's GPUs",
    "torch-tensorrt-rtx": "PyTorch's programs with engines of TensorRT for RTX",
    "tensorboard": "curves of the training for TensorBoard (train.tensorboard=true)",
    "ssh": "boards that are measured over SSH",
    "shards": "examples/make_shards.py, which packs images into tar files",
}
"""What each optional dependency of pyproject.toml adds, but for those of developers."""

_PROGRAMS = {"adb": ("phones with Android are measured by it", "apt-get install adb")}
_DISPLAYS, _BROWSERS = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"), ("xdg-open", "open", "firefox", "chromium")
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*>=\s*([0-9][0-9.]*)\s*(?:;\s*extra == ['\"](.+)['\"])?")
_ROOT = Path("/")
_FEW_BYTES, _LITTLE_MEMORY = 2 << 30, 2 << 30
"""The bytes of a disk, and of memory, below which there is a note: a run with its checkpoints, and a command that
imports PyTorch and opens data, take up to a gigabyte each."""
_BUSY = 0.5
"""The load on a core from which others disturb what is measured."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    check: str
    verdict: Verdict
    found: str
    advice: str = ""
    """What to do about it; empty where nothing is to be done."""


@dataclass(frozen=True)
class Diagnosis:
    """Everything that was looked at."""

    findings: tuple[Finding, ...]
    versions: Mapping[str, str]
    """The installed version of each package that nasdeploy can use."""

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The findings that keep nasdeploy from working."""
        return tuple(each for each in self.findings if each.verdict == "problem")

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        checks = [asdict(each) for each in self.findings]
        return {"usable": not self.problems, "checks": checks, "versions": dict(self.versions)}


@dataclass(frozen=True)
class _Requirement:
    """A package that nasdeploy uses, from its oldest version that is supported on."""

    package: str
    oldest: str
    extra: str | None
    """The extra that it belongs to; None where nothing works without it."""

    @property
    def installed(self) -> str | None:
        """The version that is installed; None if it is not."""
        try:
            return version(self.package)
        except PackageNotFoundError:
            return None

    @property
    def is_met(self) -> bool:
        """Whether it is installed in a version that is supported."""
        return self.installed is not None and numbers(self.installed) >= numbers(self.oldest)

    @property
    def text(self) -> str:
        """What pip is told, which the shell leaves alone."""
        return f"'{self.package}>={self.oldest}'"


def diagnose(root: Path = _ROOT) -> Diagnosis:
    """Return what is found on this machine, whose file systems `proc` and `sys` are below `root`."""
    needed = _requirements()
    findings = (
        Finding("nasdeploy", "ok", f"{__version__}, Python {platform.python_version()} in {sys.prefix}"),
        *_packages([each for each in needed if each.extra is None]),
        *_extras(needed),
        *_programs(),
        *_processor(root),
        *_load(root),
        _memory(root),
        *_places(),
        _gpu(root),
    )
    versions = {each.package: each.installed for each in needed}
    return Diagnosis(findings, {name: found for name, found in versions.items() if found is not None})


def _requirements() -> list[_Requirement]:
    """Return what nasdeploy's own metadata says; nothing where it is run without being installed."""
    try:
        lines = requires("nasdeploy") or []
    except PackageNotFoundError:
        return []
    found = (_REQUIREMENT.match(line) for line in lines)
    return [_Requirement(each[1], each[2], each[3]) for each in found if each]


def _packages(needed: list[_Requirement]) -> Iterator[Finding]:
    if not needed:
        yield Finding("packages", "note", "nasdeploy is not installed, so its requirements are not known")
        return
    unmet = [each for each in needed if not each.is_met]
    for each in unmet:
        here = f"{each.installed}, older than {each.oldest}" if each.installed else "not installed"
        yield Finding(each.package, "problem", here, f"run: pip install {each.text}")
    if not unmet:
        main = ", ".join(f"{name} {version(name)}" for name in ("torch", "onnxruntime"))
        yield Finding("packages", "ok", f"all {len(needed)}, none older than supported; {main}")


def _extras(needed: list[_Requirement]) -> Iterator[Finding]:
    for name, adds in EXTRAS.items():
        wanted = [each for each in needed if each.extra == name]
        unmet = [each for each in wanted if not each.is_met]
        if unmet:
            run = f"run: pip install {' '.join(each.text for each in unmet)}"
            here = [f"{each.package} {each.installed}, older than {each.oldest}" for each in unmet if each.installed]
            yield Finding(name, "note", "; ".join([*here, f"would add: {adds}"]), run)
        elif wanted:
            yield Finding(name, "ok", ", ".join(f"{each.package} {each.installed}" for each in wanted))


def _programs() -> Iterator[Finding]:
    for name, (purpose, install) in _PROGRAMS.items():
        place = which(name)
        yield Finding(name, "ok", place) if place else Finding(name, "note", f"missing; {purpose}", f"run: {install}")
    if sys.platform == "linux" and not any(map(os.environ.get, _DISPLAYS)):
        yield Finding("browser", "ok", "no display here, so reports are opened on another machine")
    elif place := next(filter(None, map(which, _BROWSERS)), None):
        yield Finding("browser", "ok", place)
    else:
        yield Finding("browser", "note", "missing; pages of reports are shown in one", "install one")


_ABILITIES = {
    "AVX2": ("avx2",),
    "AVX-512": ("avx512f",),
    "VNNI": ("avx512_vnni", "avx_vnni"),
    "fp16": ("avx512_fp16", "asimdhp"),
    "bf16": ("avx512_bf16", "bf16"),
    "AMX": ("amx_tile",),
    "dot products": ("asimddp",),
    "int8 matrices": ("i8mm",),
}
"""The instructions that networks are computed with, by what the kernel calls them (`Documentation/arch` of Linux)."""


def _processor(root: Path) -> Iterator[Finding]:
    text = _read(root / "proc/cpuinfo")
    lines = (line.partition(":") for line in text.splitlines())
    flags = next((set(value.split()) for key, _, value in lines if key.strip() in ("flags", "Features")), set[str]())
    able = [name for name, known in _ABILITIES.items() if flags.intersection(known)]
    yield Finding("processor", "ok", f"{processor_name(root)}; {', '.join(able) or 'its abilities are not known'}")
    if "avx2" in flags and "VNNI" not in able:
        yield Finding(
            "int8", "note", "there is no VNNI, so files in int8 that are made here have weights in seven bits"
        )
    quota = cpu_quota(root)
    limit = "no quota" if quota is None else f"a quota of the time of {quota:g}"
    yield Finding("cores", "ok", f"{bound_cpus()} for this process, {limit}")
    name = governor(root)
    if name in ("", "performance"):
        yield Finding("governor", "ok", name or "not told, as in most virtual machines")
    else:
        advice = "for steadier latencies run: sudo cpupower frequency-set -g performance"
        yield Finding("governor", "note", f"{name}: the processor changes its frequency", advice)


def _load(root: Path) -> Iterator[Finding]:
    words = _read(root / "proc/loadavg").split()
    if not words:
        return
    load, cores = float(words[0]), usable_cpus(root)
    if load < _BUSY * cores:
        yield Finding("load", "ok", f"{load:g} on {cores:g} cores in the last minute")
    else:
        advice = "measure latencies when nothing else runs"
        yield Finding("load", "note", f"{load:g} on {cores:g} cores in the last minute", advice)


def _memory(root: Path) -> Finding:
    lines = (line.split() for line in _read(root / "proc/meminfo").splitlines())
    known = {words[0].rstrip(":"): 1024 * int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}
    limit = memory_limit(root)
    free = min(known.get("MemAvailable", limit or _LITTLE_MEMORY), limit or sys.maxsize)
    found = f"{_gib(known['MemTotal'])}, {_gib(known['MemAvailable'])} available" if "MemAvailable" in known else ""
    text = ", ".join([*([found] if found else ()), f"a limit of {_gib(limit)}" if limit else "no limit"])
    if free >= _LITTLE_MEMORY:
        return Finding("memory", "ok", text)
    return Finding("memory", "note", text, "end other programs, or use small batches and images")


def _gib(count: int) -> str:
    return f"{count / 2**30:.3g} GiB"


def _places() -> Iterator[Finding]:
    """Yield what there is room for where nasdeploy writes."""
    places = {"runs": RUNS, "tables": TABLES, "cache": Path(DOWNLOADS).expanduser()}
    for name, place in places.items():
        there = next((each for each in (place.absolute(), *place.absolute().parents) if each.exists()), _ROOT)
        free = disk_usage(there).free
        if not os.access(there, os.W_OK):
            advice = "change to a directory of yours" if name != "cache" else "let yourself write there, or set HOME"
            yield Finding(name, "problem", f"{place}: {there} cannot be written to", advice)
        elif free < _FEW_BYTES:
            yield Finding(name, "note", f"{place}: {_gib(free)} free", "free some space before a run is begun")
        else:
            yield Finding(name, "ok", f"{place}: {_gib(free)} free")


def _gpu(root: Path) -> Finding:
    lacking, vendors = missing_gpu(), (_read(file) for file in root.glob("sys/bus/pci/devices/*/vendor"))
    if lacking is not None and any(vendor.strip() == _NVIDIA for vendor in vendors):
        return Finding("GPU", "note", "one of NVIDIA, which cannot be used", lacking)
    if lacking is not None:
        return Finding("GPU", "ok", "none of NVIDIA: PyTorch computes on the processor")
    try:
        built = version("torch")
    except PackageNotFoundError:
        built = ""
    if built.endswith("+cpu"):
        return Finding("GPU", "note", gpu(), f"torch {built} is for processors only; install one for CUDA")
    return Finding("GPU", "ok", gpu())


_NVIDIA = "0x10de"
"""The vendor's number on the bus."""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
