"""Turn a raw folder into a prepared data set: python tools/prepare_data.py acdc RAW OUT."""

import argparse

from cmems.apis.cli import main_guard, said
from cmems.datasets.prepare import check, prepare
from cmems.datasets.prepared import PreparedDataset
from cmems.errors import InputError
from cmems.registry import READERS
from cmems.visualization.progress import counting

LAYOUTS = ("acdc", "synapse", "ssl4mis", "transunet", "nifti")


@main_guard
def main():
    """Parse the arguments, prepare or check, and say what there is."""
    parser = argparse.ArgumentParser(
        description="Turn a raw folder into one prepared data set, or check one: prepare_data.py --check OUT."
    )
    parser.add_argument("layout", nargs="?", help=", ".join(LAYOUTS))
    parser.add_argument("raw", nargs="?", help="the raw folder")
    parser.add_argument("out", nargs="?", help="folder to write")
    parser.add_argument("--size", type=int, default=224, help="side of the training slices, pixels (default 224)")
    parser.add_argument("--spacing", type=float, metavar="MM", help="side of their pixels; goes with --crop")
    parser.add_argument("--crop", type=int, metavar="SIDE", help="with --spacing: cut out the middle, SIDE by SIDE")
    parser.add_argument("--val", type=_names, help="validation cases, comma-separated, or none")
    parser.add_argument("--test", type=_names, help="test cases, comma-separated, or none")
    parser.add_argument("--splits", help="JSON file: lists train, val and test; splits_final.json; dataset.json")
    parser.add_argument("--fold", type=int, help="which of several folds of --splits, from 0")
    parser.add_argument("--classes", type=_names, help="nifti: foreground classes, comma-separated")
    parser.add_argument("--modality", choices=["mr", "ct"], help="nifti: how intensities are scaled")
    parser.add_argument("--labels", type=_numbers, help="nifti: the number of each class; others are background")
    parser.add_argument("--channel", type=int, help="nifti: which channel to read of several, from 0")
    parser.add_argument("--fill-nan", action="store_true", default=None, help="nifti: NaN become the smallest value")
    parser.add_argument("--voxel", type=float, nargs=3, metavar=("Z", "Y", "X"), help="ssl4mis, transunet: size, mm")
    parser.add_argument("--workers", type=int, help="processes; default one per core")
    parser.add_argument("--overwrite", action="store_true", help="replace what OUT holds")
    parser.add_argument("--check", metavar="OUT", help="verify a prepared data set against its manifest")
    args = parser.parse_args()
    if args.check:
        problems = check(args.check)
        if problems:
            raise InputError(problems)
        print(f"{args.check}: every file is as its manifest says")
        return
    if not args.out:
        raise InputError("expected LAYOUT RAW OUT, or --check OUT; see --help")
    if (args.spacing is None) != (args.crop is None):
        raise InputError("--spacing MM and --crop SIDE go together: pixels of MM, of which SIDE by SIDE are cut out")
    if args.spacing and args.layout in ("ssl4mis", "transunet") and not args.voxel:
        raise InputError(f"--spacing: the files of layout {args.layout} hold no voxel size; expected --voxel Z Y X too")
    options = {k: getattr(args, k) for k in ("classes", "modality", "labels", "channel", "fill_nan", "fold")}
    options = {k: v for k, v in dict(options, spacing=args.voxel).items() if v is not None}
    try:
        reader = READERS.get(args.layout)(args.raw, val=args.val, test=args.test, splits=args.splits, **options)
    except TypeError as error:
        raise InputError(f"layout {args.layout}: an option does not apply to it ({error})") from error
    with counting("preparing") as progress:
        size = args.size if args.crop is None else args.crop
        data = prepare(reader, args.out, size, args.workers, progress, args.overwrite, args.spacing)
    show(data)


def show(data: PreparedDataset):
    """Print what a prepared data set holds."""
    cases, splits = data.manifest["cases"], data.manifest["splits"]
    counts = ", ".join(
        f"{split} {len(names)} volumes / {sum(cases[c]['shape'][0] for c in names)} slices"
        for split, names in splits.items()
    )
    print(f"{data.root}: {data.name}, {data.size}x{data.size}, classes {' '.join(data.classes)}\n  {counts}")
    print(f"  {_grids(data)}")
    for line in said({name: case.get("notes", []) for name, case in cases.items()}):
        print(f"  warning: {line}")
    cut = {c: cases[c]["label_cut"] for c in splits["train"] if cases[c].get("label_cut")}
    if cut:
        counts = [cases[c]["label_counts"] for c in splits["train"]]
        whole = sum(n for each in counts for k, n in each.items() if k != "0")
        print(
            f"  the crop cuts off {sum(cut.values())} of {whole} labelled voxels, in {len(cut)} training cases, "
            f"most in {max(cut, key=cut.get)}"
        )
    if any(cases[c]["labelled"] for c in splits["train"]):
        found = data.eligible_exemplars()
        first = ", ".join(f"{c} slice {s}" for c, s in found[:3])
        print(f"  {len(found)} training slices hold every class and can be the exemplar, e.g. {first or 'none'}")


def _grids(data):
    """Return where the slices of all cases lie, as far as their headers tell, and how large their pixels are."""
    cases, axes = data.manifest["cases"].values(), data.manifest.get("axes")
    planes = {"S": "axial", "I": "axial", "A": "coronal", "P": "coronal", "L": "sagittal", "R": "sagittal"}
    thick, *pixels = zip(*(case["spacing"] for case in cases), strict=True)
    where = f"{planes[axes[2]]} slices (axes {axes})" if axes else "slices of unknown direction"
    return f"{where}, pixels of {_range(pixels[0] + pixels[1])} mm, {_range(thick)} mm apart"


def _range(values):
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"{low} to {high}"


def _numbers(text):
    return [int(number) for number in text.split(",")]


def _names(text):
    return [name.strip() for name in text.split(",") if name.strip()]


if __name__ == "__main__":
    main()
