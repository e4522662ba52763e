"""Ways to spoil a file: its bytes, the fields of its header, the values in its tree."""

import copy
import gzip
import io
import json
import os
import struct
import zipfile
import zlib
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pydicom
import torch

from cmems.engine.checkpoint import seal

_NUMBERS = [0, 1, -1, 2, 3, 7, 127, 128, 255, 256, 32767, -32768, 65535, 2**31 - 1, -(2**31), 2**40, 2**63 - 1]
_REALS = [0.0, -0.0, 1.0, -1.0, 1e-45, 1e38, 1e300, -1e300, float("nan"), float("inf"), -float("inf"), 0.5, 1e10]
_TEXTS = ["", "..", "../../x", "/x/y", "a/b", "x" * 5000, "\x1b[31m", "\0", "é\ud800", "None", "1", "=1+1", "*"]
_VALUES = [None, True, False, *_NUMBERS, 2**70, *_REALS, *_TEXTS, [], {}, [[]], {"a": 1}, [1, 2, 3], ["a", "a"]]
_NRRD = ["short", "block", "double", "raw", "gzip", "bzip2", "hex", "big", "none", "(1,0,0)", "(nan,0,0)", "()", "list"]
_NRRD += ["left-posterior-superior", "right-anterior-superior", "scanner-xyz", "3D-right-handed", "domain", "RGB-color"]
# In the header of an npy file, and what may stand there.
_WORDS = ["'<f4'", "'<f2'", "'|u1'", "False", "(", ")", ",", "shape", "descr", "32", "6", "{", "}", "'"]
_OTHERS = ["'<f8'", "'|O'", "'<U9'", "'<c8'", "[('a', '<f4')]", "True", "(", "", "-1", "0", "1" * 19, "9" * 30, "shape"]
_OTHERS += ["None", "(" * 50, "1,", "__import__('os')", "'>f4'", "'|V4'"]


def pick(r, values):
    """Return one of a list, unchanged by numpy."""
    return values[int(r.integers(len(values)))]


def spoil_bytes(data, r, head=None):
    """Change a few places of ``data``, half of them among its first ``head`` bytes."""
    data = bytearray(data)
    for _ in range(1 + int(r.geometric(0.5)) if r.random() < 0.8 else int(r.integers(1, 60))):
        if not data:
            break
        limit = min(head or len(data), len(data)) if r.random() < 0.5 else len(data)
        at, n = int(r.integers(limit)), int(2 ** r.uniform(0, 10))
        act = int(r.integers(9))
        if act == 0:
            data[at] ^= 1 << int(r.integers(8))
        elif act == 1:
            data[at] = int(r.integers(256))
        elif act == 2:
            code = pick(r, "hHiIqQ")
            size = struct.calcsize(code)
            data[at : at + size] = (pick(r, _NUMBERS) & (256**size - 1)).to_bytes(size, pick(r, ["little", "big"]))
        elif act == 3:
            code, value = pick(r, "fd"), pick(r, _REALS)
            data[at : at + struct.calcsize(code)] = np.array(value).astype(code).tobytes()
        elif act == 4:
            data[at : at + n] = bytes(len(data[at : at + n]))
        elif act == 5:
            data[at : at + n] = r.bytes(len(data[at : at + n]))
        elif act == 6 and r.random() < 0.3:
            del data[at:]
        elif act == 7:
            del data[at : at + n]
        elif act == 8:
            other = int(r.integers(len(data)))
            data[at:at] = data[other : other + n]
    return bytes(data)


def spoil_nifti(data, r):
    """Change bytes, or fields of the header."""
    if r.random() < 0.4:
        return spoil_bytes(data, r, 352)
    data, fields = bytearray(data), nib.nifti1.header_dtype.fields
    for _ in range(int(r.geometric(0.6))):
        kind, at = fields[pick(r, list(fields))][:2]
        base = kind.base
        at += base.itemsize * int(r.integers(max(1, int(np.prod(kind.shape)))))
        if base.kind in "iu":
            value = (pick(r, _NUMBERS) & (256**base.itemsize - 1)).to_bytes(base.itemsize, "little")
        else:
            value = np.array(pick(r, _REALS)).astype(base).tobytes() if base.kind == "f" else r.bytes(base.itemsize)
        data[at : at + base.itemsize] = value
    return bytes(data)


def spoil_niftigz(data, r):
    """Change what is packed, or the packing."""
    if r.random() < 0.6:
        return gzip.compress(spoil_nifti(gzip.decompress(data), r), 1)
    if r.random() < 0.1:
        return data + pick(r, [data, r.bytes(20), bytes(100)])
    return spoil_bytes(data, r, 40)


def spoil_h5(data, r, folder):
    """Change bytes, or write arrays of odd shapes, types and places under the same names."""
    if r.random() < 0.6:
        return spoil_bytes(data, r, 2048)
    path = Path(folder, "new.h5")
    with h5py.File(io.BytesIO(data), "r") as old, h5py.File(path, "w") as new:
        for key in old:
            array = old[key][()]
            if r.random() < 0.4:
                new[key] = array
                continue
            act = int(r.integers(10))
            if act == 0:
                new[key] = h5py.SoftLink(pick(r, ["/nowhere", f"/{key}", "/"]))
            elif act == 1:
                new[key] = h5py.ExternalLink(pick(r, ["/etc/passwd", "new.h5", "../x.h5"]), f"/{key}")
            elif act == 2:
                new.create_group(key)
            elif act == 3:
                new.create_dataset(key, shape=pick(r, [(2**40,), (2**20, 2**20), (0, 3), (), (1,), (1, 1, 1, 1)]),
                                   dtype="f4", chunks=None)  # fmt: skip
            elif act == 4:
                shape = pick(r, [(2**20, 2**20), (2**14, 2**14, 2**10), (10**5, 10**4)])
                new.create_dataset(key, shape=shape, dtype="f8", chunks=(64,) * len(shape), compression="gzip")
            elif act == 5:
                kind = pick(r, [h5py.string_dtype(), "S9", np.dtype([("a", "f4"), ("b", "i4")]), "c8", h5py.ref_dtype,
                                h5py.vlen_dtype(np.dtype("i4")), h5py.enum_dtype({"a": 1})])  # fmt: skip
                new.create_dataset(key, shape=array.shape, dtype=kind)
            elif act == 6:
                new[key] = array.astype(pick(r, ["f2", "f8", "i1", "i8", "u8", "?", ">f4", "f4"]))
            elif act == 7:
                array = array.astype("f8")
                array.flat[int(r.integers(array.size))] = pick(r, _REALS)
                new[key] = array
            elif act == 8:
                new[key] = pick(r, [array.T, array[None], array[..., :1], array[:1], array * 0, array[::-1]])
            else:
                new.create_dataset(key, array.shape, "f4", external=[("/etc/passwd", 0, array.size * 4)])
    return path.read_bytes()


def spoil_nrrd(data, r):
    """Change bytes, or fields of the header."""
    head, gap, voxels = data.partition(b"\n\n")
    if r.random() < 0.3 or not gap:
        return spoil_bytes(data, r, len(head))
    lines = head.decode("latin1").split("\n")
    for _ in range(int(r.geometric(0.6))):
        at, act = 1 + int(r.integers(len(lines) - 1)), int(r.integers(6))
        key, mark, value = lines[at].partition(":")
        words = value.split(" ")
        if act < 3:
            words[int(r.integers(len(words)))] = str(pick(r, _NUMBERS + _REALS + _NRRD + _TEXTS)).replace("\n", "")
            lines[at] = key + mark + " ".join(words)
        elif act == 3:
            lines.append(lines.pop(at))
        elif act == 4:
            del lines[at]
        else:
            lines.append(pick(r, ["data file: LIST", "data file: ../../x", "data file: /etc/passwd", "byte skip: -1",
                                  f"line skip: {2**62}", "Segment0_Layer:=-1", "Segment0_LabelValue:=1e9",
                                  "Segment5_Name:=x", "measurement frame: (1,0,0) (0,1,0) (0,0,nan)"]))  # fmt: skip
        if len(lines) < 2:
            break
    return "\n".join(lines).encode("utf-8", "replace") + gap + voxels


def spoil_dicom(data, r):
    """Change bytes, or elements."""
    if r.random() < 0.4:
        return spoil_bytes(data, r, 1200)
    file = pydicom.dcmread(io.BytesIO(data))
    out = io.BytesIO()
    for _ in range(int(r.geometric(0.6))):
        element = pick(r, list(file))
        if r.random() < 0.2:
            del file[element.tag]
            continue
        vr = element.VR
        if vr in ("US", "SS", "UL", "SL"):
            value = int(pick(r, [0, 1, 2, 3, 8, 15, 16, 32, 255, 32767, 65535]))
        elif vr in ("DS", "IS"):
            size = pick(r, [1, 1, 2, 3, 6, 0])
            numbers = [0, 1, -1, 0.5, 7, 1e-30, 1e10] if vr == "DS" else [0, 1, -1, 3, 2**31 - 1]
            value = [pick(r, numbers) for _ in range(size)] if size != 1 else pick(r, numbers)
        elif vr in ("OW", "OB"):
            value = pick(r, [b"", element.value[::2], element.value * 2, bytes(2)])
        else:
            value = pick(r, ["", "1.2.3", "x" * 60, "..", "../../x", "MR", "MONOCHROME1", "RGB", "1.2.840.10008.1.2"])
        element.value = value
    if r.random() < 0.1:
        file.file_meta.TransferSyntaxUID = pick(
            r, ["1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.2", "1.2.3"]
        )
    try:
        file.save_as(out)
    except Exception:  # what pydicom does not write, it is not asked to read
        return spoil_bytes(data, r, 1200)
    return out.getvalue()


def spoil_png(data, r):
    """Change bytes, or what the header claims, under a right checksum."""
    if r.random() < 0.5:
        return spoil_bytes(data, r, 64)
    head = bytearray(data[16:29])
    for _ in range(int(r.geometric(0.6))):
        act = int(r.integers(3))
        if act == 0:
            at = int(r.integers(2)) * 4
            head[at : at + 4] = (pick(r, _NUMBERS) & 0xFFFFFFFF).to_bytes(4, "big")
        else:
            head[8 + int(r.integers(5))] = int(pick(r, [0, 1, 2, 3, 4, 6, 8, 16, 255]))
    return data[:16] + head + zlib.crc32(b"IHDR" + head).to_bytes(4, "big") + data[33:]


def spoil_model(data, r, folder):
    """Change the settings that a model file carries, or what every checkpoint may have changed."""
    if r.random() < 0.4:
        return spoil_checkpoint(data, r, folder)
    saved = torch.load(io.BytesIO(data), weights_only=True)
    tree = spoil_tree(json.loads(saved["meta"]["model"]), r, _VALUES)
    saved["meta"]["model"] = json.dumps(tree).replace("\ud800", "?")
    path = Path(folder, "new.pth")
    torch.save(saved, path)
    seal(path)
    return path.read_bytes()


def spoil_npy(data, r):
    """Change bytes, the header's text, or the array."""
    act = r.random()
    if act < 0.4:
        return spoil_bytes(data, r, 128)
    if act < 0.7:
        text = data[10:128].decode("latin1")
        for _ in range(int(r.geometric(0.6))):
            old, new = pick(r, _WORDS), pick(r, _OTHERS)
            text = text.replace(old, new, 1)
        text = text.encode("latin1")
        return data[:8] + len(text).to_bytes(2, "little") + text + data[128:]
    array, out = np.load(io.BytesIO(data)), io.BytesIO()
    act = int(r.integers(5))
    if act == 0:
        array = array.astype(pick(r, ["f2", "f8", "i8", "?", ">f4", "c8", "S3", "M8[s]"]))
    elif act == 1:
        array = array.astype("f8")
        array.flat[int(r.integers(array.size))] = pick(r, _REALS)
    elif act == 2:
        array = pick(r, [array.T, array[None], array[..., :1], array[:0], array * 0, np.asfortranarray(array)])
    elif act == 3:
        array = np.array([Door()], dtype=object).reshape((1,) * array.ndim)
    else:
        array = array.ravel()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


def spoil_npz(data, r):
    """Change the archive, or a member in it."""
    if r.random() < 0.4:
        return spoil_bytes(data, r)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            content, name = old.read(info), info.filename
            if r.random() < 0.6:
                content = spoil_npy(content, r)
            if r.random() < 0.1:
                name = pick(r, ["../" + name, name + "/", "x.npy", "image", "é.npy", name.upper()])
            new.writestr(name, content, pick(r, [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2]))
            if r.random() < 0.05:
                new.writestr(name, content)
    return out.getvalue()


def spoil_tree(tree, r, values):
    """Return a tree of dicts and lists with a few values, keys and branches changed."""
    holder = [copy.deepcopy(tree)]
    for _ in range(int(r.geometric(0.6))):
        places = list(_places(holder))
        place, key = pick(r, places)
        act = int(r.integers(7))
        if act < 3:
            place[key] = copy.deepcopy(pick(r, values))  # a list of them would be put into itself one day
        elif act == 3 and place is not holder:
            del place[key]
        elif act == 4:
            other, its = pick(r, places)
            place[key] = copy.deepcopy(other[its]) if its in range(len(other)) or its in other else None
        elif act == 5 and isinstance(place, dict):
            place[pick(r, [str(v) for v in values[:40]])] = place.pop(key)
        elif act == 6 and isinstance(place, list) and place is not holder:
            place.append(copy.deepcopy(place[key]))
    return holder[0]


def _places(tree):
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
        yield tree, key
        if isinstance(tree[key], (dict, list)):
            yield from _places(tree[key])


def spoil_json(data, r):
    """Change the text, or a value in it."""
    if r.random() < 0.3:
        return spoil_bytes(data, r)
    if r.random() < 0.02:
        return b"[" * 100_000
    tree = spoil_tree(json.loads(data), r, _VALUES)
    if isinstance(tree, dict) and "splits" not in tree and r.random() < 0.2:
        tree = pick(r, [[tree], [tree, tree], dict(training=[dict(image=n) for n in "ab"]), dict(training=[1])])
    return json.dumps(tree).encode("utf-8", "surrogatepass")


class Door:
    """What a pickle would open."""

    def __reduce__(self):
        return os.system, ("touch ran",)


def spoil_checkpoint(data, r, folder):
    """Change bytes, under the old seal, a new one or none; or values in it, sealed."""
    path, act = Path(folder, "new.pth"), r.random()
    if act < 0.2:
        return spoil_bytes(data, r)
    if act < 0.5:
        torch.save(torch.load(io.BytesIO(data), weights_only=True), path)
        path.write_bytes(spoil_bytes(path.read_bytes(), r))
        if path.stat().st_size > 2 and act < 0.4:
            seal(path)
        return path.read_bytes()
    odd = [torch.zeros(0), torch.zeros(1).expand(2**34), torch.ones(3, dtype=torch.complex64), torch.tensor(1.0)]
    odd += [torch.zeros(2).to_sparse(), torch.full((3,), float("nan")), torch.zeros(2, dtype=torch.int8), torch.float16]
    odd += [torch.zeros(1, device="meta"), torch.quantize_per_tensor(torch.zeros(2), 1.0, 0, torch.qint8), (1, 2), {1}]
    odd += [torch.Size([2]), torch.nn.Parameter(torch.zeros(2)), b"x", 1j]
    tree = spoil_tree(torch.load(io.BytesIO(data), weights_only=True), r, _VALUES + odd * 2 + [Door()])
    torch.save(tree, path)
    if r.random() < 0.9:
        seal(path)
    return path.read_bytes()
