"""Compiles ``kernels.cpp`` for the machine at hand, once, and loads it.

Without a C++ compiler, or where ``enable(False)`` was called, the callers fall back to torch's operators.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("kernels.cpp")
LANES = 16  # channels come in multiples of it
_FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC")
_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
_enabled = True


def enable(on):
    """Use the kernels where they can be, or never."""
    global _enabled
    _enabled = on


def why_not():
    """Return why the kernels are not in use, or None if they are."""
    return load()[1] if _enabled else "switched off"


def usable(*maps):
    """Tell whether the kernels take these ``(B, C, H, W)`` tensors.

    They must be on the CPU, channels-last, all float32 or all bfloat16, and C a multiple of 16.
    """
    return (
        not torch.compiler.is_compiling()
        and _enabled
        and all(
            x.device.type == "cpu"
            and x.dim() == 4
            and x.dtype in _NAMES
            and x.dtype == maps[0].dtype
            and x.shape[1] % LANES == 0
            and 0 < x.numel() < 2**32
            and x.is_contiguous(memory_format=torch.channels_last)
            for x in maps
        )
        and load()[1] is None
    )


def call(name, dtype, *args):
    """Call a kernel: tensors are passed as addresses, floats as float32; the threads are torch's."""
    # `args` itself stays, so that no tensor of it is freed before the kernel is done.
    values = [ctypes.c_void_p(a.data_ptr()) if torch.is_tensor(a) else a for a in args]
    getattr(load()[0], f"{name}_{_NAMES[dtype]}")(*values, ctypes.c_int(torch.get_num_threads()))


@lru_cache
def load():
    """Return (library, None), or (None, the reason)."""
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))), None)
    if compiler is None:
        return None, "no C++ compiler (g++ or clang++) on the PATH"
    try:
        return ctypes.CDLL(str(_compile(compiler))), None
    except subprocess.CalledProcessError as error:
        return None, f"{compiler} does not compile them: {error.stderr.strip().splitlines()[-1:] or error}"
    except OSError as error:
        return None, str(error)


def _compile(compiler):
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    key = hashlib.sha256("\n".join([SOURCE.read_text(), version, torch.__version__, *_FLAGS, _processor()]).encode())
    name = f"kernels-{key.hexdigest()[:16]}.so"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "cmems")
    found = cache / name
    if found.is_file():
        return found
    try:
        cache.mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(dir=cache)
    except OSError:  # no home to write to: compile for this process alone
        folder = tempfile.mkdtemp()
        found = Path(folder, name)
    part = Path(folder, "kernels.so")
    # One OpenMP runtime for torch and the kernels: two pools of threads would wait for each other's cores.
    shared = sorted(p for sub in ("lib", "../torch.libs") for p in Path(torch.__path__[0], sub).glob("lib*omp*.so*"))
    linked = [str(shared[0])] if shared else ["-fopenmp"]
    command = [compiler, *_FLAGS, "-fopenmp", "-c", str(SOURCE), "-o", str(part.with_suffix(".o"))]
    subprocess.run(command, capture_output=True, text=True, check=True)
    command = [compiler, "-shared", str(part.with_suffix(".o")), *linked, "-o", str(part)]
    subprocess.run(command, capture_output=True, text=True, check=True)
    os.replace(part, found)
    if found.parent != Path(folder):
        shutil.rmtree(folder)
    return found


def _processor():
    """Return what ``-march=native`` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "".join(next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine()))
