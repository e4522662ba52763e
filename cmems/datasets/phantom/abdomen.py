"""An abdominal CT phantom in BTCV's raw layout, with the eight organs of the Synapse task.

Coordinates are mm: x to the picture's right (the patient's left), y downwards (posterior), z upwards (superior).
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

# A slice of make_abdomen's seed 0 that holds all eight organs.
ABDOMEN_EXEMPLAR = ("case0006", 12)
# BTCV's ids.
SPLEEN, KIDNEY_R, KIDNEY_L, GALLBLADDER, LIVER, STOMACH, AORTA, VENA_CAVA, PANCREAS = 1, 2, 3, 4, 6, 7, 8, 9, 11
WITHOUT_GALLBLADDER = (23, 35)  # as in BTCV
_NUMBERS = dict(
    train=(6, 7, 9, 10, 23, 24, 26, 27, 28, 31, 33, 34, 39, 40),
    val=(5, 21, 30, 37),
    test=(8, 22, 38, 36, 32, 2, 29, 3, 1, 4, 25, 35),
)


def abdomen_volume(seed, number):
    """Make one volume, a function of its arguments alone.

    Args:
        seed (int): The data set's seed.
        number (int): The case's number.

    Returns:
        tuple: Image ``(D, H, W)`` int16 HU, label ``(D, H, W)`` uint8 (BTCV's ids), spacing (slice, row, column) mm.
        Cases 23 and 35 have no gallbladder.

    Raises:
        InputError: The seed or the number is negative.
    """
    check_key(seed, number)
    body = _Patient(np.random.default_rng([seed, number]), number)
    random = np.random.default_rng([seed, number, 1])
    axis = (np.arange(body.size) + 0.5) * body.step - body.size * body.step / 2
    x, y = np.meshgrid(axis, axis)
    levels = body.bottom + np.arange(body.depth) * body.thickness
    slices = [body.slice(x, y, z, random) for z in levels]
    images = gaussian_filter(np.stack([s[0] for s in slices]), (0, 0.6, 0.6))
    images += random.normal(0, body.noise, images.shape)
    labels = np.stack([s[1] for s in slices])
    return np.round(np.clip(images, -1024, 2000)).astype(np.int16), labels, (body.thickness, body.step, body.step)


def make_abdomen(root, train=10, val=2, test=4, seed=0):
    """Write a data set in BTCV's raw layout, the cases numbered so that the usual split applies.

    Args:
        root (str): New or empty folder.
        train, val, test (int): Cases; beyond BTCV's 14, 4 and 12 numbers they go on from 100, 400 and 700.
        seed (int): A case of a seed is the same however many there are.

    Returns:
        Path: ``root``.

    Raises:
        InputError: The folder holds files or cannot be made, or a count or the seed is wrong.
    """
    check_counts(train, val, test)
    check_key(seed)
    chosen = {}
    for split, count in (("train", train), ("val", val), ("test", test)):
        base = {"train": 100, "val": 400, "test": 700}[split]
        numbers = (*_NUMBERS[split], *range(base, base + count))
        chosen[split] = numbers[:count]
    with whole_folder(root) as (root, part):
        images, labels = (part / "RawData" / "Training" / kind for kind in ("img", "label"))
        images.mkdir(parents=True)
        labels.mkdir()
        for number in (n for numbers in chosen.values() for n in numbers):
            image, label, spacing = abdomen_volume(seed, number)
            save_nifti(images / f"img{number:04d}.nii.gz", image, spacing)
            save_nifti(labels / f"label{number:04d}.nii.gz", label, spacing)
        write_splits(part, {split: [f"case{n:04d}" for n in numbers] for split, numbers in chosen.items()})
    return root


class _Patient:
    """One patient's body: organs are ellipsoids, tubes and their unions."""

    def __init__(self, random, number):
        u = random.uniform
        self.size, self.step = int(random.integers(62, 73)) * 2, u(2.5, 2.9)
        self.depth, self.thickness = int(random.integers(24, 32)), u(4.5, 5.5)
        self.bottom = u(-62, -52)
        grow = u(0.9, 1.12)
        self.grow, self.shift = grow, (u(-10, 10), u(-10, 10))
        self.fat_rim, self.noise = u(10, 24), u(8, 18)
        self.outline = (158 * grow, 112 * grow)
        phase = u(0, 1)  # contrast: arterial to portal venous
        self.hu = {
            LIVER: u(85, 105) + 25 * phase,
            SPLEEN: u(100, 125) + 15 * phase,
            KIDNEY_L: u(150, 190),
            AORTA: 270 - 120 * phase + u(-15, 15),
            VENA_CAVA: 90 + 60 * phase + u(-10, 10),
            PANCREAS: u(75, 105),
            GALLBLADDER: u(0, 22),
            STOMACH: u(15, 60),
        }
        self.hu[KIDNEY_R] = self.hu[KIDNEY_L] + u(-8, 8)
        j = lambda v, s=7: v * grow + u(-s, s)  # noqa: E731
        self.ellipsoids = [
            (LIVER, (j(-70), j(-2), j(42)), (62 * grow, 72 * grow, u(58, 72)), u(-0.2, 0.2)),
            (LIVER, (j(-8), j(-48), j(48)), (58 * grow, u(22, 32), u(28, 38)), u(-0.1, 0.25)),
            (SPLEEN, (j(98), j(38), j(38)), (u(20, 28), u(34, 46), u(36, 48)), u(-0.5, -0.1)),
            (KIDNEY_L, (j(62, 5), j(52, 4), j(-12, 8)), (u(21, 26), u(19, 24), u(44, 54)), u(0.3, 0.8)),
            (KIDNEY_R, (j(-62, 5), j(54, 4), j(-18, 8)), (u(21, 26), u(19, 24), u(44, 54)), u(-0.8, -0.3)),
            (STOMACH, (j(55), j(-42), j(34)), (u(38, 48), u(24, 32), u(38, 48)), u(-0.5, 0.3)),
        ]
        if number not in WITHOUT_GALLBLADDER:
            self.ellipsoids.append(
                (GALLBLADDER, (j(-42), j(-46), j(-2, 4)), (u(11, 16), u(12, 18), u(20, 26)), u(-0.6, 0.6))
            )
        self.bumps = [draw_bumps(random, 0.09) for _ in self.ellipsoids]
        self.pancreas = [(j(-32, 4), j(4, 4), j(-6, 3)), (j(0, 4), j(-4, 4), j(4, 3)), (j(35, 4), j(6, 4), j(12, 3)),
                         (j(68, 5), j(22, 4), j(18, 3))]  # fmt: skip
        self.pancreas_radius = u(10, 13)
        self.aorta = (j(14, 4), j(42, 4), u(9, 12.5), u(-0.06, 0.06))
        self.vena_cava = (j(-20, 4), j(38, 4), u(9, 13), u(-0.06, 0.06))
        self.loops = [
            (u(-95, 95), u(-72, 20), u(-110, -8), u(12, 24), random.choice([-700.0, 25.0, 60.0, 230.0]))
            for _ in range(random.integers(22, 34))
        ]
        self.gas = u(0.2, 0.6)

    def slice(self, x, y, z, random):
        """Return HU and BTCV labels of the slice at height z."""
        x, y = x - self.shift[0], y - self.shift[1]
        image = np.full(x.shape, -1000.0)
        label = np.zeros(x.shape, dtype=np.uint8)
        rim = self.fat_rim
        a, b = self.outline
        image[ellipse(x, y, (0, 0), (a, b)) > 0] = -100
        muscle = ellipse(x, y, (0, 0), (a - rim, b - rim)) > 0
        image[muscle] = 55
        cavity = ellipse(x, y, (0, -6), (a - rim - 11, b - rim - 15)) > 0
        image[cavity] = -95
        for side in (-1, 1):  # the lungs' bases
            dome = np.sqrt(np.clip((z - 42) / 45, 0, 1))
            if dome > 0.1:
                lung = ellipse(x, y, (side * 78 * self.grow, 12), (58 * dome * self.grow, 74 * dome * self.grow)) > 0
                image[lung & cavity] = -820
            psoas = ellipse(x, y, (side * 36 * self.grow, 66 * self.grow), (15, 18)) > 0
            image[psoas & cavity & (z < 20)] = 58
        for angle in np.linspace(0.2, 2 * np.pi + 0.2, 15)[:-1]:
            wobble = angle + 0.012 * z
            if np.sin(wobble) < 0.35 - (z + 60) / 90:  # the lower, the less of the front is behind ribs
                continue
            center = ((a - rim - 6) * np.cos(wobble), (b - rim - 6) * np.sin(wobble))
            image[ellipse(x, y, center, (9, 3.8), wobble + np.pi / 2) > 0] = 420
        image[ellipse(x, y, (0, 78 * self.grow), (46, 24)) > 0] = 60
        disc = (z // 17) % 2
        image[ellipse(x, y, (0, 66 * self.grow), (23, 19)) > 0] = 110 if disc else 330
        image[ellipse(x, y, (0, 88 * self.grow), (9, 8)) > 0] = 30
        for lx, ly, lz, radius, content in self.loops:
            part = 1 - ((z - lz) / (radius * 1.6)) ** 2
            if part > 0.05:
                r = radius * np.sqrt(part)
                image[(ellipse(x, y, (lx, ly), (r, r * 0.85)) > 0) & cavity] = 65
                image[(ellipse(x, y, (lx, ly), (r - 3.5, r * 0.85 - 3.5)) > 0) & cavity] = content
        for (organ, center, axes, angle), bumps in zip(self.ellipsoids, self.bumps, strict=True):
            part = 1 - ((z - center[2]) / axes[2]) ** 2
            if part <= 0.02:
                continue
            scale = np.sqrt(part)
            inside = ellipse(x, y, center[:2], (axes[0] * scale, axes[1] * scale), angle, bumps)
            mask = (inside > 0) & cavity
            label[mask], image[mask] = organ, self.hu[organ]
            if organ == STOMACH:
                image[mask & (inside < 0.16)] = 75  # its wall
                image[mask & (inside > 0.16) & (y < center[1] - axes[1] * scale * self.gas)] = -850
            if organ in (KIDNEY_L, KIDNEY_R):
                image[mask & (inside > 0.3)] = self.hu[organ] - 45
                hilum = (center[0] - np.sign(center[0]) * axes[0] * 0.75, center[1] - 4)
                sinus = mask & (ellipse(x, y, hilum, (12 * scale, 7)) > 0) & (abs(z - center[2]) < 22)
                label[sinus], image[sinus] = 0, -60
        self._tubes(x, y, z, image, label, cavity)
        texture = smooth_noise(random, x.shape, 2.5)
        return image + np.where(image > -300, 7.0, 0.0) * texture, label

    def _tubes(self, x, y, z, image, label, cavity):
        for start, stop in zip(self.pancreas[:-1], self.pancreas[1:], strict=True):
            for t in np.linspace(0, 1, 9):
                px, py, pz = (s + (e - s) * t for s, e in zip(start, stop, strict=True))
                part = 1 - ((z - pz) / (self.pancreas_radius * 1.25)) ** 2
                if part > 0.02:
                    r = self.pancreas_radius * np.sqrt(part)
                    mask = (ellipse(x, y, (px, py), (r, r)) > 0) & cavity & ((label == 0) | (label == STOMACH))
                    label[mask], image[mask] = PANCREAS, self.hu[PANCREAS]
        for organ, (vx, vy, r, slope) in ((AORTA, self.aorta), (VENA_CAVA, self.vena_cava)):
            mask = ellipse(x, y, (vx + slope * z, vy), (r, r)) > 0
            label[mask], image[mask] = organ, self.hu[organ]
