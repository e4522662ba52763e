"""Label a scan by what `cmems export` wrote, without torch: python run_onnx.py heart.onnx scan.nii.gz mask.nii.gz."""

import json
import sys

import nibabel as nib
import numpy as np
import onnxruntime

model, path, out = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
said = json.loads(session.get_modelmeta().custom_metadata_map["cmems"])
scan, channel = nib.squeeze_image(nib.load(path)), said["reading"]["channel"]
scan = scan if scan.ndim < 4 or channel is None else scan.slicer[..., channel]
if scan.ndim != 3:
    sys.exit(f"{path}: expected a volume of three axes, got shape {scan.shape}")
header, sizes = scan.header, nib.affines.voxel_sizes(scan.affine)
told = header["sform_code"] or header["qform_code"]
told = told and not (np.allclose(sizes, 1) and not np.allclose(header.get_zooms(), 1, rtol=0.01))  # 1 mm: a placeholder
image = scan
if said["axes"] and told:  # as the training scans lie
    turn = nib.orientations.axcodes2ornt(said["axes"])
    image = scan.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(scan.affine), turn))
    now, then = (max(each[:2]) > 1.5 * each[2] for each in (header.get_zooms(), image.header.get_zooms()))
    image = scan if then and not now else image  # slices would run across the thick axis
voxels = np.asarray(image.dataobj, np.float32).T
if said["reading"]["fill_nan"]:
    voxels = np.where(np.isnan(voxels), np.nanmin(voxels), voxels)
if not np.isfinite(voxels).all() or voxels.min() == voxels.max():
    sys.exit(f"{path}: expected finite voxels of more than one value")
low, high = {"ct": (-125, 275), "unit": (0, 1)}.get(said["modality"], (voxels.min(), np.percentile(voxels, 99.5)))
if said["modality"] == "mr":
    high, floor = high if high > low else voxels.max(), np.percentile(voxels, 0.5)
    if (voxels < (low + high) / 2).mean() <= 0.005 and floor < high:  # the minimum is a fault of a few voxels
        low = floor
scaled = np.clip((voxels - low) / (high - low), 0, 1).astype(np.float16).astype(np.float32)
mm = {"meter": 1000, "micron": 0.001}.get(header.get_xyzt_units()[0], 1)
feed = {"spacing": mm * np.array(image.header.get_zooms()[1::-1], np.float64)} if said["pixel"] else {}
parts = [session.run(None, {"image": scaled[k : k + 8], **feed})[0] for k in range(0, len(scaled), 8)]
mask = nib.Nifti1Image(np.concatenate(parts).T, image.affine, image.header)
mask.set_data_dtype(np.uint8)
mask = mask.as_reoriented(
    nib.orientations.ornt_transform(nib.io_orientation(mask.affine), nib.io_orientation(scan.affine))
)
nib.save(mask, out)
print(f"{out}: {', '.join(f'{k} {name}' for k, name in enumerate(said['classes'], 1))}")
