"""A metric of one's own: what the voxels of every class are taken for."""

import numpy as np
from mmengine.evaluator import BaseMetric

from cmems.registry import METRICS


@METRICS.register_module()
class Confusion(BaseMetric):
    """Share of the voxels of each class, over all volumes, that a model predicts as each other class.

    Args:
        least (float): Smaller shares are not printed.
    """

    def __init__(self, least=0.1):
        super().__init__(prefix="confusion")
        self.least = least

    def process(self, data_batch, data_samples):
        """Count (reference, prediction) pairs of what is labelled; one result per volume, as MMEngine wants it."""
        n = 1 + len(self.dataset_meta["classes"])
        for sample in data_samples:
            if sample["label"] is None:  # a result all the same: of several processes MMEngine counts them
                self.results.append({})
                continue
            known = sample["label"] < n  # 255 is unknown
            pairs = {m: n * sample["label"][known].astype(int) + p[known] for m, p in sample["predictions"].items()}
            self.results.append({m: np.bincount(p, minlength=n * n).reshape(n, n) for m, p in pairs.items()})

    def compute_metrics(self, results):
        """Return, and print, the shares."""
        names = ["background", *self.dataset_meta["classes"]]
        results = [volume for volume in results if volume]
        shares = {}
        for model in results[0] if results else ():
            counts = sum(volume[model] for volume in results)
            for k, name in enumerate(names[1:], 1):
                found = {other: n / max(counts[k].sum(), 1) for other, n in zip(names, counts[k], strict=True)}
                shares.update({f"{model}/{name}_as_{other}": share for other, share in found.items()})
                seen = [f"{other} {share:.2f}" for other, share in found.items() if share >= self.least]
                print(f"{model}, {name} is taken for: {', '.join(seen)}")
        return shares
