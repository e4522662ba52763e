"""A cylinder of twelve slices that loses three at each end: DSC, and HD95 in voxels and in mm."""

import numpy as np

from cmems.evaluation import hd95

y, x = np.mgrid[:64, :64] - 32
organ = np.zeros((20, 64, 64), dtype=bool)
organ[4:16] = x**2 + y**2 <= 16**2
found = organ.copy()
found[[4, 5, 6, 13, 14, 15]] = False

dsc = 2 * (organ & found).sum() / (organ.sum() + found.sum())
print(f"DSC {dsc:.3f}, HD95 {hd95(organ, found):.1f} voxels, {hd95(organ, found, (10, 1.5, 1.5)):.1f} mm")
