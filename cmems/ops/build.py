"""Compiles the C++ of this folder for the machine at hand, once, and loads it.

Without a C++ compiler, or where ``enable(False)`` was called, the callers fall back to torch's operators. What
``CMEMS_CXXFLAGS`` names is added to the compiler's flags.
"""

import ctypes
import hashlib
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import torch

SOURCES = sorted(Path(__file__).parent.glob("*.cpp"))
LANES = 16  # channels come in multiples of it
_FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC")
_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
_TYPES = (torch.Tensor, torch.nn.Parameter)  # a subclass may have no memory, or other sizes than its memory
_OPENMP = re.compile(r"lib(g|i)?omp\d*(-\w+)?\.(so|dylib)(\.\d+)*")
_SECONDS = 120  # that a command of the compiler may take: on a busy machine it needs twenty
_transformed = getattr(torch._C, "_are_functorch_transforms_active", bool)  # torch names it privately
_enabled = True


def enable(on):
    """Use the kernels where they can be, or never."""
    global _enabled
    _enabled = on


def why_not():
    """Return why the kernels are not in use, or None if they are."""
    return load()[1] if _enabled else "switched off"


def plain(x):
    """Tell whether ``x`` is a tensor whose numbers lie in this machine's memory, as its sizes and strides say."""
    return type(x) in _TYPES and x.is_cpu and x.layout is torch.strided


def usable(*maps, multiple=LANES):
    """Tell whether the kernels take these ``(B, C, H, W)`` tensors.

    They must be on the CPU, channels-last, all float32 or all bfloat16, and C a ``multiple``. While torch traces,
    compiles or transforms functions, it must see its own operators.
    """
    return (
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not _transformed()
        and _enabled
        and all(_takes(x, maps[0].dtype, multiple) for x in maps)
        and load()[1] is None
    )


def _takes(x, dtype, multiple):
    if not plain(x) or x.dim() != 4 or x.dtype not in _NAMES or x.dtype != dtype:
        return False
    batch, channels, height, width = x.shape
    return (
        0 < batch * channels * height * width < 2**32
        and channels % multiple == 0
        and channels <= 2**16  # the kernels count channels in ints, and places along an axis in floats
        and height <= 2**20
        and width <= 2**20
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def call(name, dtype, *args):
    """Call a kernel with tensors, passed as addresses, and ctypes values; it gets as many threads as torch has.

    Raises:
        ValueError: A tensor has no memory here.
        MemoryError: There is too little.
    """
    # `args` itself stays, so that no tensor of it is freed before the kernel is done.
    values = [_address(a) if torch.is_tensor(a) else a for a in args]
    check(getattr(load()[0], f"{name}_{_NAMES[dtype]}")(*values, ctypes.c_int(torch.get_num_threads())))


def check(status):
    """Raise MemoryError unless a kernel returned 0."""
    if status:
        raise MemoryError("the compiled kernels found too little memory")


def _address(tensor):
    address = tensor.data_ptr() if tensor.is_cpu else 0
    if not address:
        raise ValueError(f"compiled kernels: expected a tensor in memory, got {type(tensor)} on {tensor.device}")
    return ctypes.c_void_p(address)


@lru_cache
def load():
    """Return (library, None), or (None, the reason)."""
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))), None)
    if compiler is None:
        return None, "no C++ compiler (g++ or clang++) on the PATH"
    try:
        more = shlex.split(os.environ.get("CMEMS_CXXFLAGS", ""))
    except ValueError as error:
        return None, f"CMEMS_CXXFLAGS: expected flags as a shell takes them ({error})"
    try:
        return _load(compiler, (*_FLAGS, *more)), None
    except subprocess.TimeoutExpired:
        return None, f"{compiler} was still at it after {_SECONDS} s"
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {error.returncode}"]
        return None, f"{compiler} does not compile them: {said[-1]}"
    except OSError as error:
        return None, f"{compiler}: {error}"


def _load(compiler, flags):
    """Return the library: the cache's, or else a new one, which the cache gets.

    Its name holds a hash of its bytes: a damaged one would kill the process that loads it.
    """
    texts = [path.read_bytes() for path in (*SOURCES, *sorted(SOURCES[0].parent.glob("*.h")))]
    rest = "\n".join([torch.__version__, *flags, _processor()])
    key = _hash(b"\n".join([*texts, _run(compiler, "--version"), rest.encode()]))
    cache = _cache()
    for path in cache.glob(f"kernels-{key}-*.so") if cache else ():
        with suppress(OSError):
            if _own(path) and path.name == _name(key, path.read_bytes()):
                return ctypes.CDLL(str(path))
            path.unlink()
    with tempfile.TemporaryDirectory(prefix="cmems-", ignore_cleanup_errors=True) as folder:
        built = _compile(compiler, flags, Path(folder))
        if not built.is_file():
            raise OSError("it made no library")
        path = _keep(built.read_bytes(), key, cache) or built  # in a home that is read-only or full: for this process
        try:
            return ctypes.CDLL(str(path))
        except OSError:
            path.unlink()
            raise


def _compile(compiler, flags, folder):
    """Return the path of a new library in the folder."""
    objects = [folder / f"{source.stem}.o" for source in SOURCES]
    for source, compiled in zip(SOURCES, objects, strict=True):
        _run(compiler, *flags, "-fopenmp", "-c", source, "-o", compiled)
    _run(compiler, *flags, "-shared", *objects, *_openmp(), "-o", folder / "kernels.so")
    return folder / "kernels.so"


def _keep(data, key, cache):
    """Write a library into the cache, whole or not at all; return its path, or None where that cannot be."""
    if cache is None:
        return None
    try:
        cache.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(".part", dir=cache)
    except OSError:
        return None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, cache / _name(key, data))
        return cache / _name(key, data)
    except OSError:
        return None
    finally:
        Path(part).unlink(missing_ok=True)


def _cache():
    """Return the folder for compiled libraries, or None for a user without a home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "cmems").absolute()
    except RuntimeError:
        return None


def _own(path):
    """Tell whether no other user of the machine wrote the file, which is to run as this one."""
    return path.stat().st_uid in (0, getattr(os, "getuid", int)())


def _hash(data):
    return hashlib.sha256(data).hexdigest()[:16]


def _name(key, data):
    return f"kernels-{key}-{_hash(data)}.so"


def _run(*command):
    """Return what a command prints, in bytes; it and what it started are killed after a while, or with this process."""
    pipes = dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with subprocess.Popen(list(map(str, command)), **pipes, start_new_session=True) as process:
        try:
            out, said = process.communicate(timeout=_SECONDS)
        except BaseException:
            with suppress(OSError):  # it ended by itself just now, which must not hide what interrupted
                if hasattr(os, "killpg"):
                    os.killpg(process.pid, signal.SIGKILL)
                process.kill()
            raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, out, said)
    return out


def _openmp():
    """Return what links torch's own OpenMP runtime: two pools of threads would wait for each other's cores."""
    folders = (Path(torch.__path__[0], "lib"), Path(torch.__path__[0]).with_name("torch.libs"))
    shared = sorted(path for folder in folders for path in folder.glob("lib*") if _OPENMP.fullmatch(path.name))
    return shared[:1] or ["-fopenmp"]


def _processor():
    """Return what ``-march=native`` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return "".join(next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine()))
