"""Draw a heart as several trainings label it: python docs/examples/why.py DATA CASE OUT.png CONFIG=WORK_DIR …

Columns: the reference, then of each config the ensemble, or the one network, of WORK_DIR/last.pth, also cleaned up
where the config does so.
"""

import sys
from pathlib import Path

import cmems
from cmems.datasets.prepared import PreparedDataset
from cmems.visualization.panels import panel, write_png

NAMES = dict(cmems_printed="as printed", cmems="left out", cmems_plus="CMEMS+")
SLICES = (0, 4, 6)  # base, and two towards the apex, the last without a right ventricle


def main(data, case, out, *trained):
    """Segment the case with each, and draw its slices."""
    prepared = PreparedDataset(data)
    volume, columns = prepared.volume(case), {}
    scan = dict(image=volume["image"], spacing=volume["spacing"], frame=prepared.frame)
    for config, work_dir in (each.split("=") for each in trained):
        model = cmems.Segmenter(config, str(Path(work_dir, "last.pth")))
        found = model.prediction.segment(model.networks, [scan])[0]
        name = NAMES.get(Path(config).parent.name, Path(config).stem)
        columns[name] = found.get("ensemble", found["network_1"])
        if "cleaned" in found:
            columns[f"{name}, cleaned"] = found["cleaned"]
    sample = dict(case=case, predictions=columns, **{k: volume[k] for k in ("image", "spacing", "label")})
    write_png(out, panel(sample, SLICES, prepared.classes))


if __name__ == "__main__":
    main(*sys.argv[1:])
