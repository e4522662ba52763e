"""``cmems prepare``."""

import inspect
from argparse import ArgumentTypeError

from cmems.cli.common import shell_words
from cmems.errors import InputError, said
from cmems.labels import UNKNOWN

ABOUT = "Turn a raw folder into one prepared data set, with a config that trains it; or check one: --check OUT."
EXAMPLE = "cmems prepare nifti RAW DATA --classes RV,Myo,LV --modality mr"
LAYOUTS = ("acdc", "synapse", "ssl4mis", "transunet", "nifti", "folder")


def add_arguments(parser):
    """Add what the command takes."""
    parser.add_argument("layout", nargs="?", help=", ".join(LAYOUTS))
    parser.add_argument("raw", nargs="?", help="the raw folder")
    parser.add_argument("out", nargs="?", help="folder to write")
    parser.add_argument("--size", type=int, help="side of the training slices, pixels (default: 224)")
    parser.add_argument("--spacing", type=float, metavar="MM", help="side of their pixels; goes with --crop")
    parser.add_argument("--crop", type=int, metavar="SIDE", help="with --spacing: cut out the middle, SIDE by SIDE")
    parser.add_argument("--val", type=_names, help="validation cases, comma-separated, or none")
    parser.add_argument("--test", type=_names, help="test cases, comma-separated, or none")
    parser.add_argument("--splits", help="JSON file: lists train, val and test; splits_final.json; dataset.json")
    parser.add_argument("--fold", type=int, help="which of several folds of --splits, from 0")
    parser.add_argument(
        "--classes",
        type=_names,
        help="nifti: foreground classes, comma-separated; default those that masks or --names name",
    )
    parser.add_argument("--modality", choices=["mr", "ct"], help="nifti: how intensities are scaled; default mr")
    parser.add_argument("--labels", type=_numbers, help="nifti: the number of each class; others are background")
    parser.add_argument("--names", metavar="FILE", help="nifti: names of the numbers: ITK-SNAP's, .ctbl, CSV, JSON")
    parser.add_argument(
        "--unpainted",
        choices=["auto", "unknown", "background"],
        help="nifti: what slices without a label are; default auto, unknown where few are painted",
    )
    parser.add_argument("--channel", type=int, help="nifti: which channel to read of several, from 0")
    parser.add_argument("--fill-nan", action="store_true", default=None, help="nifti: NaN become the smallest value")
    parser.add_argument("--voxel", type=float, nargs=3, metavar=("Z", "Y", "X"), help="ssl4mis, transunet: size, mm")
    parser.add_argument("--workers", type=int, help="processes; default one per core")
    parser.add_argument("--overwrite", action="store_true", help="replace what OUT holds")
    parser.add_argument("--check", metavar="OUT", help="verify a prepared data set against its manifest")
    config = parser.add_argument_group("the config that is written beside the data")
    config.add_argument(
        "--exemplar", nargs="+", default=[], metavar="CASE:SLICE",
        help="the labelled slice, or several; default one that holds every class",
    )  # fmt: skip
    config.add_argument(
        "--upright", action="store_true", help="scans show organs the same way up: no mirroring, no quarter turns"
    )
    config.add_argument("--turn", type=float, metavar="DEGREES", help="how far organs turn; default 180, upright 20")
    config.add_argument(
        "--radial", type=_names, default=[], metavar="CLASSES", help="classes that contract or widen, as ventricles do"
    )
    config.add_argument(
        "--wall",
        type=_pair,
        default=(),
        metavar="CAVITY:WALL",
        help="a class and the one around it, as ventricle and muscle, thick or thin",
    )
    config.add_argument(
        "--sizes",
        type=_sizes,
        default=(),
        metavar="SMALLEST:LARGEST",
        help="how large organs are beside those of the labelled slice; default 0.7:1.4",
    )
    config.add_argument("--one-piece", action="store_true", help="each class is one part: keep the largest found")


def run(args):
    """Prepare, write the config and say what there is; or check."""
    from cmems.apis.starter import Anatomy, parse_exemplars
    from cmems.cli.check import check_data
    from cmems.datasets.prepare import prepare
    from cmems.registry import READERS
    from cmems.visualization.progress import counting

    if args.check:
        named = {name: value for name, value in vars(args).items() if name not in ("check", "run")}
        given = [name for name, value in named.items() if value or value == 0 and value is not False]
        if given:
            words = (named[g] if g in ("layout", "raw", "out") else f"--{g.replace('_', '-')}" for g in given)
            also = ", ".join(words)
            raise InputError(f"--check {args.check}: looks at a prepared data set alone; {also} was given too")
        check_data(args.check)
        return
    if not args.out:
        raise InputError("expected LAYOUT RAW OUT, or --check OUT; see --help")
    if (args.spacing is None) != (args.crop is None):
        raise InputError("--spacing MM and --crop SIDE go together: pixels of MM, of which SIDE by SIDE are cut out")
    if args.size is not None and args.crop is not None:
        raise InputError(
            "--size and --crop: expected one of them: whole slices are resized, or their middle is cut out"
        )
    if args.spacing and args.layout in ("ssl4mis", "transunet") and not args.voxel:
        raise InputError(f"--spacing: the files of layout {args.layout} hold no voxel size; expected --voxel Z Y X too")
    options = {
        k: getattr(args, k)
        for k in ("classes", "modality", "labels", "names", "unpainted", "channel", "fill_nan", "fold")
    }
    options = {k: v for k, v in dict(options, spacing=args.voxel).items() if v is not None}
    layout = READERS.get(args.layout)
    foreign = [name for name in options if name not in inspect.signature(layout).parameters]
    if foreign:
        flags = ", ".join(f"--{dict(spacing='voxel').get(name, name).replace('_', '-')}" for name in foreign)
        raise InputError(f"{flags}: layout {args.layout} has no such option")
    reader = layout(args.raw, val=args.val, test=args.test, splits=args.splits, **options)
    anatomy = Anatomy(args.upright, args.turn, tuple(args.radial), args.one_piece, tuple(args.wall), args.sizes)
    anatomy.check(reader.classes)
    exemplars = parse_exemplars(args.exemplar)
    with counting("preparing") as progress:
        size = next(each for each in (args.crop, args.size, 224) if each is not None)
        data = prepare(reader, args.out, size, args.workers, progress, args.overwrite, args.spacing, exemplars)
    show(data)
    assumed = args.layout in ("nifti", "folder") and args.modality is None
    hint = ", assumed (--modality ct is for CT in HU)" * assumed
    print(f"  modality {reader.modality}{hint}: {data.manifest['intensity']}")
    start(data, exemplars, anatomy, args.overwrite)


def show(data):
    """Print what a :class:`PreparedDataset` holds."""
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
        whole = sum(n for each in counts for k, n in each.items() if 0 < int(k) < UNKNOWN)
        print(
            f"  the crop cuts off {sum(cut.values())} of {whole} labelled voxels, in {len(cut)} training cases, "
            f"most in {max(cut, key=cut.get)}"
        )


def start(data, exemplars, anatomy, replace):
    """Write the config that trains a data set, and say on which slice, or what is wanting for that."""
    from cmems.apis.places import BESIDE
    from cmems.apis.starter import find_exemplars, too_small, write_config

    if not data.cases("train"):
        print("  no case is left to train on: --val, --test or --splits name them all")
        return
    if not any(data.case(case)["labelled"] for case in data.cases("train")):
        print("  no training case is labelled: paint one slice of every class, and prepare again with --overwrite")
        return
    found = data.eligible_exemplars()
    first = ", ".join(f"{c} slice {s}" for c, s in found[:3])
    hold = "slice holds" if len(found) == 1 else "slices hold"
    named = f", e.g. {first}" if found else ""
    print(f"  {len(found)} training {hold} every class, all painted, and can be the exemplar{named}")
    typed = bool(exemplars)
    if not typed:
        chosen, missing = find_exemplars(data)
        case, index = chosen[0]
        if not found and not missing:
            print(f"  {case} slice {index} holds every class, and is painted in part: it is taken")
        if missing:
            if lost := too_small(data, case, missing):
                print(
                    f"  too little is painted of {', '.join(lost)} in {case} to stay at {data.size}x{data.size} "
                    "pixels: a larger --size, or a smaller --spacing, keeps it"
                )
            print(
                f"  no config is written: no slice holds every class. The fullest, {case} slice {index}, lacks "
                f"{', '.join(missing)}: paint {'it' if len(missing) == 1 else 'them'} there, leave "
                f"{'it' if len(missing) == 1 else 'them'} out of the classes, or name slices that together hold all: "
                "--exemplar CASE:SLICE CASE:SLICE"
            )
            if (data.root / BESIDE).is_file():
                print(f"{data.root / BESIDE}: stays as it was, of what was prepared there before")
            return
        exemplars = [dict(case=case, slice=index) for case, index in chosen]
    path, ours, aside = write_config(data, exemplars, anatomy, replace)
    for kept in aside:
        print(f"  what was {kept.stem} is kept as {kept.name}")
    trains, rounds = (shell_words("cmems", verb, data.root) for verb in ("train", "rounds"))
    if not ours:
        print(f"{path}: kept, though it is not what these options make; remove it for another. {trains}")
        return
    named = ", ".join(f"{each['case']} slice {each['slice']}" for each in exemplars)
    along = f"the scan's last axis (viewers that begin at 1 show {exemplars[0]['slice'] + 1})"
    notes = data.case(exemplars[0]["case"]).get("notes", [])
    if any(sentence.startswith("orientations differ") for sentence, _ in notes):
        along = f"the last of the axes {data.manifest['axes']}, to which that scan was turned"
    several = "s, every painted slice" if len(exemplars) > 1 and not typed else ""
    print(f"  exemplar{several}: {named}; slices are counted from 0 along {along}")
    if len(found) > len(exemplars):
        print("  the others are not learned from; --exemplar CASE:SLICE CASE:SLICE … names which slices are")
    print(f"{path}: a config that trains on it; next: {trains}; in two rounds: {rounds}")


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
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise InputError(f"--labels {text}: expected whole numbers, comma-separated, e.g. 500,200,600") from None


def _pair(text):
    return [name.strip() for name in text.split(":")]


def _sizes(text):
    try:
        smallest, largest = (float(size) for size in text.split(":"))
    except ValueError:
        raise InputError(f"--sizes {text}: expected SMALLEST:LARGEST, e.g. 0.5:1.25") from None
    return smallest, largest


def _names(text):
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ArgumentTypeError(f"expected names, comma-separated, got {text!r}")
    return names
