"""Label a scan by what `cmems export` wrote, without torch: python run_onnx.py heart.onnx scan.nii.gz mask.nii.gz."""

import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import onnxruntime


def settle(scan):
    """Return what a header says, as cmems settles it: voxel sizes (x, y, z) in mm, and affines, the best first."""
    with scan.file_map.get("header", scan.file_map["image"]).get_prepare_fileobj("rb") as file:
        raw = scan.header_class.from_fileobj(file, check=False)  # nibabel mends the other
    mm = {1: 1000, 3: 0.001}.get(raw["xyzt_units"] & 7, 1)
    try:
        qform = scan.header.get_qform(coded=True)[0]
    except Exception:  # a quaternion that is none
        qform = np.zeros((4, 4))
    stated = [np.diag([mm, mm, mm, 1]) @ each for each in (raw.get_sform(coded=True)[0], qform) if each is not None]
    affines = [each for each in stated if is_regular(each)]
    if stated and not affines:
        raise ValueError("expected an affine of three independent directions")
    sizes = np.ones(3)
    sizes[: len(scan.shape[:3])] = raw["pixdim"][1 : 1 + len(scan.shape[:3])].astype(float) * mm
    unset = ~((sizes > 1e-9) & (sizes < 1e9))
    steps = nib.affines.voxel_sizes(affines[0]) if affines else sizes
    if affines and (unset.any() or (sizes == 1).all() and not np.allclose(sizes, steps, rtol=0.01)):
        return steps, affines
    return np.where(unset, 1, sizes), affines


def is_regular(affine):
    """Tell whether an affine has finite entries and three independent directions."""
    if not np.isfinite(affine).all() or np.abs(affine).max() > 1e12:
        return False
    steps = nib.affines.voxel_sizes(affine)
    return steps.min() > 1e-9 and abs(np.linalg.det(affine[:3, :3] / steps)) > 1e-3


def turn_of(sizes, affines, axes):
    """Return how a scan is turned to lie as the training scans, by nibabel's orientations; None: it is not."""
    if not axes or not affines:
        return None
    if np.allclose(nib.affines.voxel_sizes(affines[0]), 1) and not np.allclose(sizes, 1, rtol=0.01):  # a placeholder
        return None
    turn = nib.orientations.ornt_transform(nib.io_orientation(affines[0]), nib.orientations.axcodes2ornt(axes))
    after = sizes[np.argsort(turn[:, 0])]
    now, then = (max(each[:2]) > 1.5 * each[2] for each in (sizes, after))
    return None if then and not now else turn  # slices would run across the thick axis


def read(path, channel, fill_nan):
    """Return a scan's image of nibabel, and its voxels, three axes of them."""
    scan = nib.load(path)
    if not isinstance(scan, nib.Nifti1Pair) or scan.get_data_dtype().kind not in "iuf":
        raise ValueError("expected NIfTI of one real number per voxel")
    voxels, shape = np.asarray(scan.dataobj), list(scan.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    voxels = voxels.reshape(shape)
    if len(shape) == 4 and channel is not None and channel < shape[3]:
        voxels = voxels[..., channel]
    if voxels.ndim not in (2, 3):
        raise ValueError(f"expected a volume of three axes, got shape {scan.shape}")
    voxels = voxels.reshape((*voxels.shape, 1)[:3])
    return scan, np.where(np.isnan(voxels), np.nanmin(voxels), voxels) if fill_nan else voxels


def scale(voxels, modality):
    """Return voxels scaled to [0, 1], rounded as the training scans are."""
    low, high = float(voxels.min()), float(voxels.max())
    large = max(abs(low), abs(high))
    if not np.isfinite(high - low) or high - low <= np.spacing(large):
        raise ValueError("expected finite voxels of more than one value")
    if modality == "ct" and high - low <= 2 or modality == "unit" and not -1e-3 <= low <= high <= 1 + 1e-3:
        raise ValueError(f"expected voxels {dict(ct='in HU', unit='in [0, 1]')[modality]}, got {low:g} to {high:g}")
    coarse = large > 1e30 or high - low < 1e-30 or large > 1000 * (high - low)
    voxels = voxels.astype(np.float64 if coarse else np.float32)
    low, high = {"ct": (-125, 275), "unit": (0, 1)}.get(modality, (float(voxels.min()), float(voxels.max())))
    if modality == "mr":
        high = top if (top := float(np.percentile(voxels, 99.5))) > low else high
        floor = float(np.percentile(voxels, 0.5))
        if (voxels < low / 2 + high / 2).mean() <= 0.005 and floor < high:  # the minimum is a fault of a few voxels
            low = floor
    return np.clip((voxels - low) / (high - low), 0, 1).astype(np.float32).astype(np.float16).astype(np.float32)


if len(sys.argv) != 4 or not sys.argv[3].endswith((".nii", ".nii.gz")):
    sys.exit(
        "expected: python run_onnx.py PROGRAM.onnx SCAN.nii.gz MASK.nii.gz, the mask's name ending .nii or .nii.gz"
    )
program, path, out = sys.argv[1:]
if Path(path).resolve() == Path(out).resolve():
    sys.exit(f"{out}: the scan itself; name another file")
try:
    session = onnxruntime.InferenceSession(program, providers=["CPUExecutionProvider"])
    said = json.loads(session.get_modelmeta().custom_metadata_map["cmems"])
except Exception as error:
    sys.exit(f"{program}: expected a program of cmems export ({' '.join(str(error).split())[:200]})")
try:
    scan, voxels = read(path, **said["reading"])
    sizes, affines = settle(scan)
    turn = turn_of(sizes, affines, said["axes"])
    if turn is not None:
        voxels, sizes = nib.apply_orientation(voxels, turn), sizes[np.argsort(turn[:, 0])]
    slices = scale(voxels.T, said["modality"])
except Exception as error:
    sys.exit(f"{path}: {' '.join(str(error).split())[:200]}")
feed = {"spacing": sizes[1::-1].copy()} if said["pixel"] else {}
parts = [session.run(None, {"image": slices[k : k + 8], **feed})[0] for k in range(0, len(slices), 8)]
labels = np.concatenate(parts).T
if turn is not None:
    back = nib.orientations.axcodes2ornt(said["axes"])
    labels = nib.apply_orientation(labels, nib.orientations.ornt_transform(back, nib.io_orientation(affines[0])))
affine, header = scan.affine, scan.header.copy()
if not is_regular(affine):
    affine = affines[0] if affines else np.diag([*sizes, 1])
    header.set_xyzt_units("mm")
mask = nib.Nifti1Image(labels, affine, header)
mask.set_data_dtype(np.uint8)
try:
    nib.save(mask, out)
except OSError as error:
    sys.exit(f"{out}: {error}")
print(f"{out}: {', '.join(f'{k} {name}' for k, name in enumerate(said['classes'], 1))}")
