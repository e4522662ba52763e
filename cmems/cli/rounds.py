"""``cmems rounds``."""

from cmems.cli.common import add_config, cfg_options

ABOUT = "Train configs one after the other, or a prepared data set twice; each labels the training scans for the next."
EXAMPLE = "cmems rounds DATA --hours 0.25"


def add_arguments(parser):
    """Add what the command takes."""
    add_config(parser, many=True)
    parser.add_argument("--work-dir", help="where rounds and labels go; default that of the last config")
    parser.add_argument("--resume", action="store_true", help="go on where an earlier run of the same rounds was")
    parser.add_argument("--overwrite", action="store_true", help="replace the rounds that the work directory holds")
    parser.add_argument("--amp", action="store_true", help="train in bfloat16 where the machine computes in it")
    parser.add_argument("--steps", type=int, help="train each round so many steps")
    parser.add_argument("--hours", type=float, help="give each round as many steps as fit in that time")
    parser.add_argument("--seed", type=int, help="overrides the configs'")


def run(args):
    """Train round after round, and say where the last one's weights are."""
    from cmems.apis import train_rounds
    from cmems.apis.rounds import rounds_of
    from cmems.visualization import say

    checkpoint = train_rounds(
        args.configs,
        args.work_dir,
        lambda k, of, what: say(f"round {k} of {of}: {what}"),
        cfg_options(args),
        resume=args.resume,
        overwrite=args.overwrite,
        amp=args.amp,
        seed=args.seed,
        steps=args.steps,
        hours=args.hours,
    )
    last = rounds_of(args.configs)[-1]
    print(f"{checkpoint}: weights of the last round; next: cmems predict {last} {checkpoint} SCANS MASKS")
