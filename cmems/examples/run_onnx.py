"""Label a scan by what `cmems export` wrote, without torch: python run_onnx.py heart.onnx scan.nii.gz mask.nii.gz."""

import json
import sys

import nibabel as nib
import numpy as np
import onnxruntime

model, path, out = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
said = json.loads(session.get_modelmeta().custom_metadata_map["cmems"])
scan = nib.load(path)
image = scan
if said["axes"]:  # as the training scans lie
    turn = nib.orientations.axcodes2ornt(said["axes"])
    image = scan.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(scan.affine), turn))
voxels = np.asarray(image.dataobj, np.float32).T
low, high = {"ct": (-125, 275), "unit": (0, 1)}.get(said["modality"], (voxels.min(), np.percentile(voxels, 99.5)))
if said["modality"] == "mr" and (voxels < (low + high) / 2).mean() <= 0.005:  # the minimum is a fault of a few voxels
    low = np.percentile(voxels, 0.5)
scaled = np.clip((voxels - low) / (high - low), 0, 1).astype(np.float16).astype(np.float32)
feed = {"spacing": np.array(image.header.get_zooms()[1::-1], np.float64)} if said["pixel"] else {}
parts = [session.run(None, {"image": scaled[k : k + 8], **feed})[0] for k in range(0, len(scaled), 8)]
mask = nib.Nifti1Image(np.concatenate(parts).T, image.affine)
mask = mask.as_reoriented(
    nib.orientations.ornt_transform(nib.io_orientation(mask.affine), nib.io_orientation(scan.affine))
)
nib.save(mask, out)
print(f"{out}: {', '.join(f'{k} {name}' for k, name in enumerate(said['classes'], 1))}")
