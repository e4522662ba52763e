"""``cmems export``."""

from pathlib import Path

from cmems.cli.common import shell_words
from cmems.cli.predict import NETWORK, VIEWS, network

ABOUT = "Write a model as a program that runs without CMEMS: slices in, labels out."
_NEXT = {
    "onnx": "{command}, which needs no torch",
    "torch-export": "torch.export.load({out!r}).module() runs it",
}
EXAMPLE = "cmems export heart.pth heart.onnx"


def add_arguments(parser):
    """Add what the command takes."""
    parser.add_argument("model", help="a file of `cmems publish`")
    parser.add_argument("out", help="the file to write, .onnx or .pt2")
    parser.add_argument(
        "--format", choices=("onnx", "torch-export"), default="onnx", help="torch-export is for torch itself, .pt2"
    )
    parser.add_argument("--network", type=network, help=NETWORK)
    parser.add_argument("--views", type=int, choices=(1, 4, 8), help=VIEWS)


def run(args):
    """Export, and say how the labels compare."""
    from cmems.apis import export

    def begin():
        print(f"{args.model}: tracing, writing and comparing, which takes a minute or two", flush=True)

    found = export(args.model, args.out, args.format, args.network, args.views, begin)
    if found["left_out"]:
        print(f"the clean-up is left out: {', '.join(found['left_out'])}")
    command = shell_words("python", Path(args.out).with_name("run_onnx.py"), args.out, "SCAN", "MASK")
    then = _NEXT[args.format].format(out=args.out, command=command)
    if found["rounded"]:
        print("cmems predict computes in bfloat16 on this CPU: some voxels at organs' edges differ from its masks")
    same = found["voxels"] - found["differing"]
    print(f"{args.out}: labels as the model in float32 in {same:,} of {found['voxels']:,} voxels; next: {then}")
