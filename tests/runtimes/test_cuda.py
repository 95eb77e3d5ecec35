"""What is asked of NVIDIA's driver, with a stand-in of four functions."""

import shutil
import subprocess

import pytest

from nasdeploy.runtimes.cuda import gpu, missing_gpu

DRIVER = """
#include <string.h>
int cuInit(unsigned flags) { return FOUND ? 0 : 100; }
int cuDeviceGet(int *device, int ordinal) { *device = 7 + ordinal; return 0; }
int cuDeviceGetName(char *name, int length, int device) {
    strncpy(name, device == 7 ? "NVIDIA Stand-In 9000" : "another", length); return 0;
}
int cuDriverGetVersion(int *version) { *version = 12080; return 0; }
"""


@pytest.fixture
def driver(tmp_path, monkeypatch):
    if shutil.which("gcc") is None:
        pytest.skip("no C compiler")

    def install(found):
        library = tmp_path / f"libcuda{found}.so"
        command = ["gcc", "-shared", "-fPIC", f"-DFOUND={found}", "-x", "c", "-", "-o", str(library)]
        subprocess.run(command, input=DRIVER, text=True, check=True)
        monkeypatch.setattr("nasdeploy.runtimes.cuda._DRIVER", str(library))

    return install


def test_gpu_and_driver_are_named(driver):
    driver(found=1)
    assert missing_gpu() is None
    assert gpu() == "NVIDIA Stand-In 9000, driver for CUDA 12.8"


def test_a_driver_without_a_gpu(driver):
    driver(found=0)
    assert missing_gpu() == "the NVIDIA driver finds no GPU; see what nvidia-smi says"


def test_no_driver(monkeypatch):
    monkeypatch.setattr("nasdeploy.runtimes.cuda._DRIVER", "libabsent.so.1")
    assert missing_gpu() == "there is no NVIDIA driver; install one, so that nvidia-smi lists the GPU"
