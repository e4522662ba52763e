"""The paper's tables and every further method, CPU-sized, equal steps: the data and the rate that CMEMS+ has.

cmems compare docs/examples/equal_steps.py --datasets acdc_128 synapse_128 --seeds 0
"""

from cmems.comparison.rows import Row
from cmems.comparison.suites import SUITES

# One pixel size, the heart or the body alone: prepare_data.py acdc RAW data/acdc_plus_64 --spacing 3.25 --crop 64, and
# synapse RAW data/synapse_plus_80 --spacing 4.5 --crop 80.
DATA = {"data/acdc_128": "data/acdc_plus_64", "data/synapse_128": "data/synapse_plus_80"}
IMAGES = 4  # of each source a step
STEPS = 1500
UPRIGHT = False  # True: W neither mirrors nor turns by quarters

title = "Every method, CPU-sized, equal steps"
datasets = ["acdc_128", "synapse_128"]
notes = SUITES["paper_table2"].notes


def _sized(row):
    def options(config):
        own = row.options(config) if callable(row.options) else row.options
        sources = {k for k, v in config.train_dataloader.items() if isinstance(v, dict) and "batch_size" in v}
        return {
            "data_root": DATA.get(config.data_root, config.data_root),
            **{f"train_dataloader.{source}.batch_size": IMAGES for source in sorted(sources)},
            "optim_wrapper.optimizer.lr": 1e-3,
            "train_cfg.max_iters": STEPS,
            "train_cfg.val_interval": STEPS // 3,
            **own,
            **({"model.weak.quarter_turns": False, "model.weak.flip": 0.0} if UPRIGHT else {}),
        }

    return Row(row.label, row.config, options, row.paper, row.sweep, row.one_slice)


_rows = {row.label: row for name in ("paper_table2", "methods") for row in SUITES[name].rows}
_rows.pop("CMEMS+, first round")  # of its own data and settings
rows = [_sized(row) for row in _rows.values()]
