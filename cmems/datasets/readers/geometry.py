"""Where voxels lie: the voxel size and axes a header gives, labels brought onto their scan's grid, scans turned."""

import nibabel as nib
import numpy as np
from scipy.ndimage import find_objects

from cmems.errors import InputError

# A tenth of a voxel: rounding in headers stays far below it, and a shift by half a voxel far above.
_TOLERANCE = 0.1
_AFFINE = "pixdim and the affine give different voxel sizes; pixdim's is taken"
_PLACEHOLDER = "pixdim gives voxels of 1 mm or none; the affine's size is taken"
_NO_SIZE = "the header gives no voxel size; 1 mm is taken"
_ODD_SIZE = "voxels below 0.01 mm or above 100 mm; the header's unit may be wrong"
_SFORM = "the sform is unusable; the qform is taken"
_CONFLICT = "sform and qform give the axes different directions; the sform is taken"
_ACROSS = "the pixels are longer than the slices are apart: slices run across the thick axis"
LEFT = "not turned to {}, as most scans lie: its slices would run across its thick axis"
_APART = "sform and qform disagree on whether the labels lie on the scan; they are taken to"
_PLACELESS = "the mask's header does not say where it lies; it is taken to lie as its scan, voxel by voxel"
_SKEW = "the axes are not at right angles, as of a tilted gantry; distances and volumes are taken as if they were"
_CROP = "the labels cover a part of the scan; around it is background"


def regular(affine):
    """Tell whether an affine ``(4, 4)`` has finite entries and three independent directions."""
    if not np.isfinite(affine).all() or np.abs(affine).max() > 1e12:
        return False
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    return bool(lengths.min() > 1e-9 and abs(np.linalg.det(affine[:3, :3] / lengths)) > 1e-3)


def settle_frames(path, sform, qform):
    """Return the usable affines of a header, the one to trust first, and notes.

    Args:
        path (Path): Named in the error.
        sform, qform (np.ndarray | None): ``(4, 4)`` in mm; None where the header does not set it.

    Raises:
        InputError: An affine is set, but none is usable.
    """
    frames = tuple(f for f in (sform, qform) if f is not None and regular(f))
    stated = sform if sform is not None else qform
    if not frames and stated is not None:
        rows = "; ".join(" ".join(f"{v:g}" for v in row) for row in stated[:3])
        raise InputError(f"{path}: expected an affine of three independent directions, got {rows}")
    notes = []
    if sform is not None and frames and frames[0] is not sform:
        notes.append((_SFORM, ""))
    if len(frames) == 2 and axes(frames[0]) != axes(frames[1]):
        notes.append((_CONFLICT, f"{axes(frames[0])} and {axes(frames[1])}"))
    if frames and (tilt := _tilt(frames[0])) > 1:
        notes.append((_SKEW, f"{tilt:.3g} degrees off"))
    return frames, notes


def _tilt(affine):
    """Return by how many degrees the angles between an affine's axes differ from a right one, at most."""
    steps = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return float(np.degrees(np.arcsin(np.abs(steps.T @ steps - np.eye(3)).max().clip(0, 1))))


def settle_spacing(pixdim, frames):
    """Settle the voxel size: pixdim's, or the affine's where pixdim gives none or only the 1 mm of an unset header.

    Args:
        pixdim (np.ndarray): ``(3,)`` mm, as the header has it.
        frames (tuple[np.ndarray]): The header's affines, the one to trust first.

    Returns:
        tuple[np.ndarray, list]: ``(3,)`` mm in the order of ``pixdim``, and notes.
    """
    pixdim = pixdim if frames else np.abs(pixdim)  # some tell by a sign which way an axis runs
    given = np.where((pixdim > 1e-9) & (pixdim < 1e9), pixdim, np.nan)
    steps = np.linalg.norm(frames[0][:3, :3], axis=0) if frames else np.full(3, np.nan)
    unset = np.isnan(given).any() or (given == 1).all()
    spacing, notes = given, []
    if frames and not np.allclose(given, steps, rtol=0.01):
        detail = f"{_sizes(pixdim)} and {_sizes(steps)} mm"
        if unset:
            spacing = steps
            notes.append((_PLACEHOLDER, detail))
        elif not np.allclose(steps, 1):
            notes.append((_AFFINE, detail))
    if np.isnan(spacing).any():
        spacing = np.where(np.isnan(spacing), 1.0, spacing)
        notes.append((_NO_SIZE, f"pixdim is {_sizes(pixdim)}"))
    if spacing.min() < 0.01 or spacing.max() > 100:
        notes.append((_ODD_SIZE, f"{_sizes(spacing)} mm"))
    return spacing, notes


def spacing_notes(spacing):
    """Note slices that run across the thick axis; ``spacing`` is (slice, row, column) in mm."""
    return [(_ACROSS, f"{_sizes(spacing)} mm")] if max(spacing[1:]) > 1.5 * spacing[0] else []


def axes(affine):
    """Return the letters of the directions in which an affine's three axes grow, as ``LPS``."""
    return "".join(nib.aff2axcodes(affine))


def known_axes(volume):
    """Return a :class:`Volume`'s axes as ``LPS``; None where its header does not tell, or by a placeholder of 1 mm."""
    if not volume.frames:
        return None
    steps = np.linalg.norm(volume.frames[0][:3, :3], axis=0)
    placeholder = np.allclose(steps, 1) and not np.allclose(volume.spacing, 1, rtol=0.01)
    return None if placeholder else axes(volume.frames[0])


def lay_on(label, image, label_path, image_path):
    """Bring labels onto their scan's grid, voxel by voxel: axes permuted, mirrored, or a part of the scan cut out.

    Args:
        label, image (Volume): Of one case.
        label_path, image_path (Path): Named in errors.

    Returns:
        Volume: Labels of the image's shape. Nothing is interpolated.

    Raises:
        InputError: The labels lie elsewhere, or between the scan's voxels.
    """
    if label.lone and image.frames:
        label = _apart(label, image.frames[0])
    same = label.voxels.shape == image.voxels.shape
    whole = label.voxels.size == image.voxels.size
    # What juts out of the scan may be empty: viewers save more than was painted.
    painted = [] if same and not label.names else [_painted(label.voxels)]
    for scan in image.frames:
        for frame in label.frames:
            shifted = np.abs(frame[:3, 3] - scan[:3, 3]).max() > 0
            # Cut-out labels that kept the scan's origin were not cut by a tool that knows of affines, as those are that
            # name their segments.
            if not (whole or shifted or label.names):
                continue
            for voxels, start in [(label.voxels, np.zeros(3)), *painted]:
                step = np.linalg.inv(scan) @ frame
                step[:3, 3] += step[:3, :3] @ start
                if (placed := _place(voxels, image.voxels.shape, step)) is not None:
                    notes = () if whole else ((_CROP, f"{label.voxels.shape} of {image.voxels.shape}"),)
                    if scan is not image.frames[0] or frame is not label.frames[0]:
                        moved = image.frames[0] @ np.linalg.inv(scan) @ frame
                        notes += ((_APART, f"one says up to {_away(moved, label.frames[0], label):.3g} mm away"),)
                    return label._replace(
                        voxels=placed, spacing=image.spacing, affine=image.affine, notes=label.notes + notes
                    )
    if not same:
        if between := _off_grid(label, image):
            raise InputError(
                f"{label_path}: lies between the voxels of {image_path.name}, {between:.2g} mm off its grid; resample "
                "it to the scan's grid"
            )
        if label.frames and image.frames and all((frame == image.frames[0]).all() for frame in label.frames):
            raise InputError(
                f"{label_path}: expected shape {image.voxels.shape} of {image_path.name}, got {label.voxels.shape} at "
                "the same origin, which does not tell where it was cut out; save labels of the whole scan"
            )
        sizes = f", voxels of {_sizes(label.spacing)} mm beside {_sizes(image.spacing)}"
        raise InputError(
            f"{label_path}: expected shape {image.voxels.shape} of {image_path.name}, got {label.voxels.shape}"
            + sizes * (not np.allclose(label.spacing, image.spacing, rtol=0.01))
        )
    if not image.frames:
        return label
    if not label.frames:
        notes = (*label.notes, (_PLACELESS, ""))
        return label._replace(spacing=image.spacing, affine=image.affine, notes=notes)
    away = _away(image.frames[0], label.frames[0], image)
    raise InputError(
        f"{label_path}: expected the place of {image_path.name}, but its header puts the corners up to {away:.3g} mm "
        f"away (affine axes {axes(label.frames[0])}, the scan's {axes(image.frames[0])})"
    )


def _apart(label, scan):
    """Put empty slices between lone ones that lie several of the scan's apart, whose affine is ``scan``."""
    step = (np.linalg.inv(scan) @ label.affine)[:3, 2]
    times = int(np.rint(np.abs(step[2])))
    if len(label.voxels) == 1 or times < 2 or np.abs(np.abs(step) - (0, 0, times)).max() > _TOLERANCE:
        return label
    voxels = np.zeros((times * (len(label.voxels) - 1) + 1, *label.voxels.shape[1:]), label.voxels.dtype)
    voxels[::times] = label.voxels
    affine = label.affine @ np.diag([1, 1, 1 / times, 1])
    spacing = (label.spacing[0] / times, *label.spacing[1:])
    return label._replace(voxels=voxels, spacing=spacing, affine=affine, frames=(affine,))


def _off_grid(label, image):
    """Return how far, in mm, labels of the scan's axes and voxel sizes lie beside its voxels; of others 0."""
    if not (label.frames and image.frames):
        return 0.0
    step = np.linalg.inv(image.frames[0]) @ label.frames[0]
    if np.abs(np.abs(step[:3, :3]).max(axis=0) - 1).max() > 1e-3 or np.abs(step[:3, :3]).sum() > 3.003:
        return 0.0
    aside = step[:3, 3] - np.rint(step[:3, 3])
    return float(np.linalg.norm(aside * np.asarray(image.spacing)[::-1])) if np.abs(aside).max() > _TOLERANCE else 0.0


def _away(affine, other, volume):
    """Return how far apart two affines put the corners of a volume, mm."""
    return np.abs((affine - other) @ _corners(volume.voxels.shape[::-1]))[:3].max()


def is_to_turn(volume, codes):
    """Tell whether a :class:`Volume` is to be turned so that its axes grow as ``codes``; see :func:`turned`.

    Not where its slices, which lie along its thick axis, would run across it: what is left is no slice. In short-axis
    scans of hearts, which lie oblique, the axes have other letters from patient to patient, and yet are the same.
    """
    stored = known_axes(volume)
    if not codes or not stored or stored == codes:
        return False
    sides = {"RLAPSI".index(letter) // 2: mm for letter, mm in zip(stored, volume.spacing[::-1], strict=True)}
    after = [sides["RLAPSI".index(letter) // 2] for letter in reversed(codes)]
    return bool(spacing_notes(volume.spacing)) or not spacing_notes(after)


def turned(volume, codes):
    """Turn a :class:`Volume` so that its axes grow as ``codes``, as ``LPS``; its own axes must be known."""
    turn = _turn(known_axes(volume), codes)
    shape = volume.voxels.shape[::-1]
    affine = volume.affine @ nib.orientations.inv_ornt_aff(turn, shape)
    order = np.argsort(turn[:, 0])
    spacing = tuple(np.asarray(volume.spacing)[::-1][order][::-1].tolist())
    return volume._replace(voxels=turned_array(volume.voxels, known_axes(volume), codes), affine=affine,
                           spacing=spacing, frames=(affine,))  # fmt: skip


def turned_array(voxels, old, new):
    """Turn ``(D, H, W)`` voxels whose (x, y, z) axes grow as ``old`` so that they grow as ``new``."""
    turned = nib.orientations.apply_orientation(voxels.transpose(2, 1, 0), _turn(old, new))
    return np.ascontiguousarray(turned.transpose(2, 1, 0))


def _turn(old, new):
    codes = nib.orientations.axcodes2ornt
    return nib.orientations.ornt_transform(codes(old), codes(new))


def _place(voxels, shape, step):
    """Return ``voxels`` in an array of ``shape``, both (z, y, x), where ``step`` takes their indices to the other's.

    None when ``step`` is no exact move along the axes, or leaves the array.
    """
    step = step.copy()
    for axis in range(3):
        # Of one voxel along an axis it does not count how long that is, which some writers make up.
        if voxels.shape[2 - axis] == 1 and (length := np.abs(step[:3, axis]).max()) > 0:
            step[:3, axis] /= length
    turn = np.rint(step[:3, :3])
    if not ((np.abs(turn).sum(axis=0) == 1).all() and (np.abs(turn).sum(axis=1) == 1).all()):
        return None
    corners = _corners(voxels.shape[::-1])
    landed = (step @ corners)[:3]
    exact = turn @ corners[:3]
    exact += np.rint(landed - exact).mean(axis=1, keepdims=True)
    low, high = exact.min(axis=1), exact.max(axis=1)
    if np.abs(landed - exact).max() > _TOLERANCE or low.min() < 0 or (high >= shape[::-1]).any():
        return None
    order = np.abs(turn).argmax(axis=1)
    flips = tuple(slice(None, None, int(turn[i, order[i]])) for i in range(3))
    out = np.zeros(shape[::-1], dtype=voxels.dtype)
    out[tuple(slice(int(a), int(b) + 1) for a, b in zip(low, high, strict=True))] = voxels.transpose(2, 1, 0).transpose(
        order
    )[flips]
    return out.transpose(2, 1, 0)


def _painted(voxels):
    """Return the box that holds all labels of ``(z, y, x)`` voxels, and where it begins, (x, y, z)."""
    (box,) = find_objects((voxels != 0).view(np.uint8)) or [(slice(None),) * 3]
    return voxels[box], np.array([each.start or 0 for each in box[::-1]], float)


def _corners(shape):
    """Return ``(4, 8)``: the indices (x, y, z, 1) of the corners of an array of ``shape`` (x, y, z)."""
    picks = np.array(np.meshgrid(*((0, s - 1) for s in shape), indexing="ij")).reshape(3, -1)
    return np.vstack([picks, np.ones(8)])


def _sizes(values):
    return " x ".join(f"{v:.4g}" for v in values)
