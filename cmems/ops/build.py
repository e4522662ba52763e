"""Compiles the C++ of this folder for the machine at hand, once, and loads it.

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

SOURCES = sorted(Path(__file__).parent.glob("*.cpp"))
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


def usable(*maps, multiple=LANES):
    """Tell whether the kernels take these ``(B, C, H, W)`` tensors.

    They must be on the CPU, channels-last, all float32 or all bfloat16, and C a ``multiple``.
    """
    return (
        not torch.compiler.is_compiling()
        and _enabled
        and all(
            x.device.type == "cpu"
            and x.dim() == 4
            and x.dtype in _NAMES
            and x.dtype == maps[0].dtype
            and x.shape[1] % multiple == 0
            and 0 < x.numel() < 2**32
            and x.is_contiguous(memory_format=torch.channels_last)
            for x in maps
        )
        and load()[1] is None
    )


def call(name, dtype, *args):
    """Call a kernel with tensors, passed as addresses, and ctypes values; it gets as many threads as torch has."""
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
        said = (error.stderr or str(error)).strip().splitlines()
        return None, f"{compiler} does not compile them: {said[-1]}"
    except OSError as error:
        return None, str(error)


def _compile(compiler):
    """Return the path of the library, which is compiled unless the cache has it."""
    version = _run(compiler, "--version")
    texts = [path.read_text() for path in (*SOURCES, *sorted(SOURCES[0].parent.glob("*.h")))]
    key = "\n".join([*texts, version, torch.__version__, *_FLAGS, _processor()])
    name = f"kernels-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "cmems")
    if (cache / name).is_file():
        return cache / name
    try:
        cache.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=cache))
    except OSError:  # no home to write to: for this process alone
        cache = Path(tempfile.mkdtemp())
        folder = Path(tempfile.mkdtemp(dir=cache))
    try:
        objects = [folder / f"{source.stem}.o" for source in SOURCES]
        for source, compiled in zip(SOURCES, objects, strict=True):
            _run(compiler, *_FLAGS, "-fopenmp", "-c", source, "-o", compiled)
        _run(compiler, "-shared", *objects, *_openmp(), "-o", folder / name)
        os.replace(folder / name, cache / name)  # whole, whoever else compiles it
    finally:
        shutil.rmtree(folder)
    return cache / name


def _run(*command):
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stdout


def _openmp():
    """Return what links torch's own OpenMP runtime: two pools of threads would wait for each other's cores."""
    folders = (Path(torch.__path__[0], "lib"), Path(torch.__path__[0]).with_name("torch.libs"))
    shared = sorted(path for folder in folders for path in folder.glob("lib*omp*.so*"))
    return shared[:1] or ["-fopenmp"]


def _processor():
    """Return what ``-march=native`` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "".join(next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine()))
