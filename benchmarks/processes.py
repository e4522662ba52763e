"""The losses of two processes, and of accumulated gradients, against those of one process with the whole batch.

``python benchmarks/processes.py configs/cmems/unet_phantom_cardiac.py --steps 50``
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from mmengine.config import Config
from prettytable import PrettyTable

REPO = Path(__file__).parents[1]
# A narrow network whose norm does not look at the batch, no dropout, and sums that are not rounded to bfloat16. Adam
# and τ would enlarge what rounding leaves: a step of full size of a gradient that is zero, one of few confident pixels.
CONFIG = """
_base_ = {base!r}
backbone = dict(channels=(8,) * 5, norm_cfg=dict(type="GN", num_groups=4), dropout=(0,) * 5)
model = dict(backbone=backbone, pseudo_labeler=dict(threshold=0), **{model!r})
optimizer = dict(type="SGD", lr=0.005, _delete_=True)
optim_wrapper = dict(type="OptimWrapper", optimizer=optimizer, accumulative_counts={batches})
val_dataloader = val_cfg = val_evaluator = param_scheduler = None
default_hooks = dict(runtime_info=dict(interval=1), logger=dict(interval=1))
train_cfg = dict(max_iters={steps})
"""


def losses(config, folder, batch, steps, processes=1, batches=1, entropy=False, options=()):
    """Train; return the losses of each change of the weights, ``[{name: loss}]``."""
    cfg, model = Config.fromfile(config), {}
    sources = {k: v for k, v in cfg.train_dataloader.items() if isinstance(v, dict) and "batch_size" in v}
    if entropy:
        alone = dict(type="CrossEntropyDice", dice=0)
        model["objectives"] = [dict(objective, loss=alone) for objective in cfg.model.objectives]
    path = Path(f"{folder}.py")
    text = CONFIG.format(base=str(Path(config).resolve()), model=model, steps=steps * batches, batches=batches)
    path.write_text(text)
    options = [*options, *(f"train_dataloader.{name}.batch_size={batch}" for name in sources)]
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes))
    command = [sys.executable, *(launch if processes > 1 else ()), "tools/train.py", str(path), "--work-dir", folder]
    command += ["--launcher", "pytorch" if processes > 1 else "none", "--cfg-options", *options]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    (scalars,) = Path(folder).glob("*/vis_data/scalars.json")
    rows = [row for row in map(json.loads, scalars.read_text().splitlines()) if "loss" in row]
    groups = zip(*(rows[k::batches] for k in range(batches)), strict=True)
    return [{k: sum(row[k] for row in group) / batches for k in group[0] if k.startswith("loss")} for group in groups]


def main():
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch", type=int, default=2, help="B")
    parser.add_argument("--cfg-options", nargs="*", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    table = PrettyTable(["", "largest relative difference"], align="l")
    with tempfile.TemporaryDirectory() as base:
        for k, (name, entropy, parts) in enumerate(
            (
                ("two processes of B", False, dict(processes=2)),
                ("two accumulated steps of B, cross-entropy alone", True, dict(batches=2)),
            )
        ):
            run = dict(config=args.config, steps=args.steps, entropy=entropy, options=args.cfg_options)
            one = losses(folder=f"{base}/one{k}", batch=2 * args.batch, **run)
            two = losses(folder=f"{base}/two{k}", batch=args.batch, **parts, **run)
            pairs = [(a[k], b[k]) for a, b in zip(one, two, strict=True) for k in a]
            table.add_row([name, f"{max(abs(a - b) / max(abs(a), 1e-9) for a, b in pairs):.1e}"])
    print(table)


if __name__ == "__main__":
    main()
