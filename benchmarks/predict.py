"""What validating costs: predict every volume of a split, measure DSC and HD95 of all networks and their ensemble.

Beside it the way of SSL4MIS's ``test_single_volume``, written anew: a slice at a time, scipy's zoom, medpy's metrics.
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from elsewhere import Elsewhere
from medpy.metric import binary
from prettytable import PrettyTable
from scipy.ndimage import zoom

import cmems.models
from cmems import ops
from cmems.apis import load_config
from cmems.datasets.volumes import VolumeDataset
from cmems.engine.checkpoint import read_checkpoint
from cmems.engine.memory import keep_freed_memory
from cmems.engine.restore import load_weights
from cmems.evaluation import DSC, HD95
from cmems.registry import MODELS


def main():
    """Time both in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("checkpoint", help="trained weights: what is predicted decides what HD95 costs")
    parser.add_argument("--split", default="val")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", help="write the figures as JSON")
    args = parser.parse_args()
    keep_freed_memory()
    model, volumes = load(args.config, args.checkpoint, args.split)
    ways = {
        "ours": lambda: ours(model, volumes),
        "slice at a time": Elsewhere(SliceAtATime, args.config, args.checkpoint, args.split),
    }
    seconds, means = {name: [] for name in ways}, {}
    for _ in range(args.rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            means[name] = way()
            seconds[name].append(time.perf_counter() - began)
    predicting = []
    for _ in range(args.rounds):
        began = time.perf_counter()
        for _ in predictions(model, volumes):
            pass
        predicting.append(time.perf_counter() - began)
    table = PrettyTable(["way", "s", "volumes/s", "DSC of the ensemble", "HD95"])
    for name, times in seconds.items():
        middle = statistics.median(times)
        table.add_row([name, f"{middle:.2f}", f"{len(volumes) / middle:.2f}", *(f"{m:.4f}" for m in means[name])])
    ratio = statistics.median(b / a for a, b in zip(seconds["ours"], seconds["slice at a time"], strict=True))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    machine = f"{device}, torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}"
    print(f"{args.config}, split {args.split}: {len(volumes)} volumes, {model.num_networks} networks; {machine}")
    print(table)
    print(f"of ours, without metrics: {statistics.median(predicting):.2f} s")
    print(f"ratio {ratio:.1f}; scipy's zoom samples other pixels than ours, so the means differ a little")
    if args.out:
        report = dict(
            vars(args),
            machine=machine,
            volumes=len(volumes),
            seconds=seconds,
            predicting=predicting,
            means=means,
            ratio=ratio,
        )
        Path(args.out).write_text(json.dumps(report, indent=1))


def load(config, checkpoint, split):
    """Return the model with its weights, ready to predict, and the volumes."""
    config = load_config(config)
    model = MODELS.build(config.model)
    load_weights(model, read_checkpoint(checkpoint), checkpoint)
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    return model, VolumeDataset(config.test_dataloader.dataset.data_root, split)


def predictions(model, volumes):
    """Yield what the model makes of four volumes after the other."""
    for i in range(0, len(volumes), 4):
        yield model(volumes=[volumes[k] for k in range(i, min(i + 4, len(volumes)))], mode="predict")


def ours(model, volumes):
    """Return the ensemble's mean DSC and HD95 as a validation measures them."""
    metrics = [DSC(), HD95()]
    for metric in metrics:
        metric.dataset_meta = volumes.metainfo
    for samples in predictions(model, volumes):
        for metric in metrics:
            metric.process(None, samples)
    return [m.evaluate(len(volumes))[f"ensemble/{m.name}"] for m in metrics]


class SliceAtATime:
    """The plain way; call it to measure the split."""

    def __init__(self, config, checkpoint, split):
        ops.enable(False)
        self.model, self.volumes = load(config, checkpoint, split)

    @torch.no_grad()
    def __call__(self):
        """Return the same means."""
        model, volumes = self.model, self.volumes
        scores, size = [], volumes.prepared.size
        for i in range(len(volumes)):
            volume = volumes[i]
            image, label = volume["image"].astype(np.float32), volume["label"]
            found = [np.zeros_like(label) for _ in range(model.num_networks + 1)]
            for z, plane in enumerate(image):
                scale = size / np.array(plane.shape)
                small = torch.from_numpy(zoom(plane, scale, order=0))[None, None]
                small = small.to(next(model.parameters()).device)
                soft = [net(small).softmax(1) for net in model.networks]
                for mask, p in zip(found, [*soft, sum(soft) / len(soft)], strict=True):
                    mask[z] = zoom(p.argmax(1)[0].cpu().numpy(), 1 / scale, order=0)
            for mask in found:
                scores.append([per_class(mask == k, label == k) for k in range(1, volumes.prepared.num_classes)])
        ensemble = np.array(scores[model.num_networks :: model.num_networks + 1])
        return ensemble.mean((0, 1)).tolist()


def per_class(mask, label):
    """Return DSC and HD95, 0 and 0 where there is no prediction."""
    return (binary.dc(mask, label), binary.hd95(mask, label)) if mask.any() else (0.0, 0.0)


if __name__ == "__main__":
    assert cmems.models  # registers what the config names
    main()
