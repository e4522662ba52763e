"""A cardiac short-axis MR phantom in ACDC's raw layout.

Every patient has its own anatomy, pathology, position, contrast and coil; the descending aorta, other bright vessels
with walls, stomach, spleen and fat distract. Coordinates are mm from the picture's centre, x to the right, y downwards.
"""

import numpy as np
from scipy.ndimage import gaussian_filter

from cmems.datasets.phantom.shapes import (
    check_counts,
    check_key,
    draw_bumps,
    ellipse,
    save_nifti,
    smooth_noise,
    whole_folder,
    write_splits,
)
from cmems.errors import InputError

# A slice of make_cardiac's seed 0 that holds every class: a training patient without pathology, end-diastole.
CARDIAC_EXEMPLAR = ("patient004_frame01", 2)
RV, MYO, LV = 1, 2, 3
_GROUPS = ("NOR", "DCM", "HCM", "RV")


def cardiac_volume(seed, patient, frame):
    """Make one volume, a function of its arguments alone.

    Args:
        seed (int): The data set's seed.
        patient (int): From 1.
        frame (int): 0 end-diastole, 1 end-systole.

    Returns:
        tuple: Image ``(D, H, W)`` int16, label ``(D, H, W)`` uint8 (1 RV, 2 Myo, 3 LV), and spacing (slice, row,
        column) in mm.

    Raises:
        InputError: The seed or the number is negative, or the frame is neither 0 nor 1.
    """
    check_key(seed, patient)
    if frame not in (0, 1):
        raise InputError(f"frame: expected 0 (end-diastole) or 1 (end-systole), got {frame}")
    anatomy = _Patient(np.random.default_rng([seed, patient]), patient)
    noise = np.random.default_rng([seed, patient, frame + 1])
    size, step, depth = anatomy.size, anatomy.step, anatomy.depth
    images = np.empty((depth, size, size))
    labels = np.empty((depth, size, size), dtype=np.uint8)
    for z in range(depth):
        level = z / (depth - 1)
        labels[z] = anatomy.heart(*_grid(size, step, 1), level, frame)
        fine = anatomy.paint(*_grid(size, step, 2), level, frame)
        images[z] = gaussian_filter(fine, anatomy.blur * 2).reshape(size, 2, size, 2).mean((1, 3))
    images = images**anatomy.gamma * anatomy.bias
    sigma = anatomy.noise
    images = np.hypot(images + noise.normal(0, sigma, images.shape), noise.normal(0, sigma, images.shape))  # Rician
    return np.round(images * anatomy.gain).astype(np.int16), labels, (anatomy.thickness, step, step)


def make_cardiac(root, train=16, val=4, test=4, seed=0):
    """Write a data set in ACDC's raw layout: two frames a patient.

    Args:
        root (str): New or empty folder.
        train, val, test (int): Patients.
        seed (int): Patient n of a seed is the same however many there are.

    Returns:
        Path: ``root``.

    Raises:
        InputError: The folder holds files or cannot be made, or a count or the seed is wrong.
    """
    check_counts(train, val, test)
    check_key(seed)
    names = [f"patient{n:03d}" for n in range(1, train + val + test + 1)]
    with whole_folder(root) as (root, part):
        for number, name in enumerate(names, 1):
            folder = part / "training" / name
            folder.mkdir(parents=True)
            random = np.random.default_rng([seed, number, 9])
            systole = int(random.integers(8, 13))
            for frame, index in enumerate((1, systole)):
                image, label, spacing = cardiac_volume(seed, number, frame)
                save_nifti(folder / f"{name}_frame{index:02d}.nii.gz", image, spacing)
                save_nifti(folder / f"{name}_frame{index:02d}_gt.nii.gz", label, spacing)
            (folder / "Info.cfg").write_text(
                f"ED: 1\nES: {systole}\nGroup: {_GROUPS[number % 4]}\nHeight: {random.uniform(155, 190):.1f}\n"
                f"NbFrame: 30\nWeight: {random.uniform(55, 95):.1f}\n"
            )
        write_splits(part, dict(train=names[:train], val=names[train : train + val], test=names[train + val :]))
    return root


def _grid(size, step, fineness):
    axis = (np.arange(size * fineness) + 0.5) / fineness * step - size * step / 2
    return np.meshgrid(axis, axis)


class _Patient:
    """What stays the same over a patient's slices and frames."""

    def __init__(self, random, number):
        u = random.uniform
        group = _GROUPS[number % 4]
        self.size = int(random.integers(56, 69)) * 2
        self.step = u(1.4, 1.75)
        self.depth, self.thickness = int(random.integers(6, 10)), u(7, 10)
        self.center = (u(-22, 22), u(-22, 22))
        self.angle = u(-0.9, 0.9)
        self.radius = u(26, 30) if group == "DCM" else u(18, 24)
        self.wall = u(12, 15) if group == "HCM" else u(8, 11)
        self.shrink = u(0.82, 0.92) if group == "DCM" else u(0.58, 0.75)
        self.rv = u(1.1, 1.3) if group == "RV" else u(0.85, 1.05)
        self.lv_bumps, self.rv_bumps = draw_bumps(random, 0.05), draw_bumps(random, 0.08)
        self.outflow = random.random() < 0.5
        self.papillary = [(u(0.5, 0.62), a + u(-0.3, 0.3), u(0.13, 0.2)) for a in (0.9, -1.1)]
        self.blood, self.muscle = u(0.7, 1.0), u(0.22, 0.36)
        self.rv_blood = self.blood * u(0.88, 1.05)
        self.fat, self.liver, self.lung = u(0.7, 1.1), u(0.3, 0.55), u(0.04, 0.12)
        self.gamma, self.gain = u(0.6, 1.7), u(150, 900)
        self.noise, self.blur = u(0.015, 0.05), u(0.35, 0.8)
        self.vessels = [self._vessel(random) for _ in range(random.integers(6, 11))]
        self.organs = [
            (u(-110, 110), u(35, 110), u(18, 45), u(15, 35), u(0, 3.1), u(0.25, 1.0))
            for _ in range(random.integers(3, 6))
        ]
        self.body = (u(-15, 15), u(-5, 20), u(112, 140), u(88, 108))
        self.textures = random.integers(0, 2**31)
        y, x = np.mgrid[-1 : 1 : self.size * 1j, -1 : 1 : self.size * 1j]
        a, b, c, d = (u(-0.6, 0.6) for _ in range(4))
        self.bias = np.exp(a * x + b * y + c * x * y + d * (x**2 + y**2 - 0.6))
        outer = self.radius + self.wall
        aorta, stomach = u(1.1, 1.7), u(0.35, 0.8)
        self.vessels.append((*self._beside(aorta, outer + u(18, 26)), u(10, 13), 1.5, self.blood * u(0.92, 1.05)))
        size = max(self.radius, 22)  # as large as the cavity, so that brightness alone does not tell them apart
        self.blobs = [  # stomach and spleen
            (self._beside(angle, outer + b * size + u(8, 16)), (a * size, b * size), angle + u(1.2, 1.9), u(0.85, 1.05))
            for angle, a, b in ((stomach, u(1.2, 1.5), u(1.0, 1.2)), (u(1.5, 2.1), u(0.9, 1.3), u(0.6, 0.8)))
        ]
        self.sac = (outer + u(12, 20), outer + u(7, 12))
        self.sac_bumps = draw_bumps(random, 0.16, count=4)
        self.rv_wall = u(2.0, 3.5)

    def _vessel(self, random):
        """Draw a bright disc, often with a wall like the heart's: (x, y, radius, wall, brightness)."""
        angle, reach = random.uniform(0, 2 * np.pi), random.uniform(52, 95)
        brightness = self.blood * random.uniform(0.85, 1.1)
        return *self._beside(angle, reach), random.uniform(7, 18), random.choice([0, 3, 7]), brightness

    def _beside(self, angle, reach):
        """Return the point ``reach`` mm from the LV's centre, ``angle`` below the picture's right."""
        return self.center[0] + reach * np.cos(angle), self.center[1] + reach * np.sin(angle)

    def _lv_size(self, level, frame):
        """Return the cavity's radius and the wall's thickness in mm at a level, 0 base to 1 apex."""
        taper = np.sqrt(1 - (0.86 * level) ** 2)
        if frame:
            return self.radius * self.shrink * taper, self.wall * (1.25 if level < 0.9 else 1.1)
        return self.radius * taper, self.wall

    def _rv(self, x, y, level, frame, wall=0.0):
        """Return how deep points lie in the RV, the LV's disc not yet cut out of it, with ``wall`` mm around it."""
        scale = self.rv * (0.82 if frame else 1.0) * np.sqrt(max(0.0, 1 - (level / 0.92) ** 2))
        if scale <= 0.25:
            return np.full(x.shape, -1.0)
        middle = self._beside(self.angle, -sum(self._lv_size(level, frame)) - 6 * scale)
        return ellipse(x, y, middle, (24 * scale + wall, 33 * scale + wall), self.angle, self.rv_bumps)

    def heart(self, x, y, level, frame):
        """Label points: 0, RV, Myo or LV."""
        label = np.zeros(x.shape, dtype=np.uint8)
        radius, wall = self._lv_size(level, frame)
        outer = radius + wall
        label[self._rv(x, y, level, frame) > 0] = RV
        label[ellipse(x, y, self.center, (outer, outer), self.angle, self.lv_bumps) > 0] = MYO
        label[ellipse(x, y, self.center, (radius, radius), self.angle, self.lv_bumps) > 0] = LV
        if self.outflow and level == 0:  # the most basal slice cuts the outflow tract: the ring is open
            direction = np.arctan2(y - self.center[1], x - self.center[0]) - self.angle
            label[(label == MYO) & (np.cos(direction - 2.2) > 0.8)] = 0
        return label

    def paint(self, x, y, level, frame):
        """Return intensities without bias and noise."""
        texture = np.random.default_rng([self.textures, int(level * 100)])
        half = (x.shape[0] // 2, x.shape[1] // 2)  # coarse texture needs no fine grid
        coarse = smooth_noise(texture, half, 4.5).repeat(2, axis=0).repeat(2, axis=1)
        fine = smooth_noise(texture, x.shape, 2)
        image = np.full(x.shape, 0.02)
        bx, by, ba, bb = self.body
        image[ellipse(x, y, (bx, by), (ba, bb)) > 0] = self.fat
        inner = ellipse(x, y, (bx, by), (ba - 13, bb - 11)) > 0
        image[inner] = self.muscle * 1.25
        for side in (-1, 1):
            lung = ellipse(x, y, (bx + side * 62, by - 14), (46, 66), side * 0.2) > 0
            image[lung & inner] = self.lung * (1 + 0.5 * np.clip(fine, 0, 3))[lung & inner]
        lower = inner & (y > by + 42 + 4 * coarse)
        image[lower] = self.liver
        for ox, oy, a, b, angle, brightness in self.organs:
            organ = (ellipse(x, y, (ox, oy - 6 * level), (a, b), angle) > 0) & inner
            image[organ] = brightness
        grow = 0.8 + 0.35 * level  # nearer the diaphragm towards the apex
        for middle, (a, b), angle, part in self.blobs:
            inside = (ellipse(x, y, middle, (a * grow, b * grow), angle, self.sac_bumps) > 0) & inner
            image[inside] = (self.blood * part * (1 + 0.06 * coarse))[inside]
        for vx, vy, r, wall, brightness in self.vessels:
            r = r * (1 + 0.15 * np.sin(6 * level + vx))
            if wall:
                image[(ellipse(x, y, (vx, vy), (r + wall, r + wall)) > 0) & inner] = self.muscle
            image[(ellipse(x, y, (vx, vy), (r, r)) > 0) & inner] = brightness
        sac = ellipse(x, y, self._beside(self.angle, -10 * (1 - level)), self.sac, self.angle, self.sac_bumps) > 0
        image[sac & inner] = (self.fat * (0.5 + 0.1 * np.clip(coarse, -2, 2)))[sac & inner]
        # The RV's free wall, unlabelled as in ACDC.
        image[self._rv(x, y, level, frame, self.rv_wall) > 0] = self.muscle * 1.1
        label = self.heart(x, y, level, frame)
        if self.outflow and level == 0:
            radius, wall = self._lv_size(level, frame)
            ring = ellipse(x, y, self.center, (radius + wall,) * 2, self.angle, self.lv_bumps) > 0
            image[ring & (label == 0)] = self.blood * 0.9
        image[label == RV] = self.rv_blood
        image[label == MYO] = self.muscle
        image[label == LV] = self.blood
        radius, _ = self._lv_size(level, frame)
        for reach, angle, part in self.papillary:
            if level < 0.75:
                px = self.center[0] + reach * radius * np.cos(self.angle + angle)
                py = self.center[1] + reach * radius * np.sin(self.angle + angle)
                image[(ellipse(x, y, (px, py), (part * radius,) * 2) > 0) & (label == LV)] = self.muscle * 1.15
        return np.clip(image * (1 + 0.07 * coarse + 0.05 * fine), 0, None)
