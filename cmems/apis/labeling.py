"""Masks of the training scans, by which a next round learns."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np

from cmems.apis.config import load_config
from cmems.apis.model_file import load_learner
from cmems.apis.predict import Masks
from cmems.apis.segmenter import best_device, segmenter_key
from cmems.apis.trust import digest
from cmems.datasets.preparation import Preparation
from cmems.datasets.prepared import PreparedDataset
from cmems.datasets.readers.nifti import nifti_description, read_nifti
from cmems.engine.runner import set_up_cpu
from cmems.files import whole_file


def label_training_scans(config, checkpoint, out, cfg_options=None, progress=None, keep=False):
    """Write the mask of every training case, for another round of training to learn from (``StaticLabels``).

    Args:
        config (str): Path of the config.
        checkpoint (str): The weights.
        out (str): Folder of the masks, ``<case>.nii.gz``, on the scans' own grids, so that a next round may have
            another size or spacing; as :func:`predict` cleans them, 255 where ``model.prediction.unknown_below`` says.
        cfg_options (dict | None): Dotted keys to set.
        progress (callable | None): Called with (cases done, cases, name) after each case.
        keep (bool): Leave masks alone that these very weights made, or that were mended since they were made.

    Returns:
        Masks: What was written.

    Raises:
        InputError: Something in the config, the data or the checkpoint is wrong, or a mask to be kept is damaged.
    """
    cfg = load_config(config, cfg_options, ["model", "train_dataloader.data_root"])
    data = PreparedDataset(cfg.train_dataloader.data_root)
    set_up_cpu(cfg.get("env_cfg") or {})
    model = load_learner(cfg, config, checkpoint, data).to(best_device())
    best, cases, written, kept = model.prediction.names(model.num_networks)[-1], data.cases("train"), {}, []
    key = segmenter_key(model.predictors, dict(cfg.model.get("prediction") or {}), Preparation.of(data))
    for done, case in enumerate(cases, 1):
        written[case] = Path(out, f"{case}.nii.gz")
        if keep and _is_kept(written[case], key):
            kept.append(case)
        else:
            _label(case, data, model, key, written[case])
        if progress:
            progress(done, len(cases), case)
    return Masks(written, data.classes, _whose(model, best), {}, {}, kept=kept)


def _label(case, data, model, key, path):
    """Write the mask of a training case; its header says which model made which labels."""
    entry, rows = data.case(case), data.rows(case)
    squares = np.array(data.train_images()[rows.start : rows.stop])
    volume = dict(image=squares, shape=entry["shape"], spacing=entry["spacing"], frame=data.frame)
    labels = model.prediction.segment_to_learn(model.predictors, volume)
    write_labels(path, entry, labels, f"cmems {key} {digest(labels.transpose(2, 1, 0))}")


def write_labels(path, entry, labels, note):
    """Write labels ``(D, H, W)`` uint8 on the grid of a prepared case, ``entry`` of its manifest, with a note."""
    mask = nib.Nifti1Image(np.ascontiguousarray(labels.transpose(2, 1, 0)), np.asarray(entry["affine"]))
    mask.header.set_zooms(entry["spacing"][::-1])  # of which the affine may know nothing, as in ACDC
    mask.header.set_xyzt_units("mm")
    mask.header["descrip"] = note.encode()
    with whole_file(path) as part:
        part.write_bytes(gzip.compress(mask.to_bytes(), compresslevel=3, mtime=0))


def _is_kept(path, key):
    """Tell whether a mask of a training scan is there that a model of this key made, or a person has changed."""
    if not path.is_file():
        return False
    name, maker, known = (*(nifti_description(path) or "").split(" "), "", "")[:3]
    return name != "cmems" or maker == key or known != digest(read_nifti(path).voxels.transpose(2, 1, 0))


def _whose(model, best):
    whose = "the ensemble" if model.num_networks > 1 else "network 1"
    return f"{whose}, cleaned up" if best == "cleaned" else whose
