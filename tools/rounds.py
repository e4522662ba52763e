"""Train in rounds: python tools/rounds.py configs/cmems_plus/unet_acdc.py configs/cmems_plus/unet_acdc_round2.py."""

import argparse

from cmems.apis import train_rounds
from cmems.apis.cli import main_guard
from cmems.apis.config import OptionsAction
from cmems.visualization import say


@main_guard
def main():
    """Parse the arguments, train round after round, and say where the last one's weights are."""
    parser = argparse.ArgumentParser(
        description="Train configs one after the other; each labels the training scans for the next."
    )
    parser.add_argument("configs", nargs="+", metavar="config", help="Python-file configs, the first round's first")
    parser.add_argument("--work-dir", help="where rounds and labels go; default that of the last config")
    parser.add_argument("--resume", action="store_true", help="go on where an earlier run of the same rounds was")
    parser.add_argument("--overwrite", action="store_true", help="replace the rounds that the work directory holds")
    parser.add_argument("--amp", action="store_true", help="train in bfloat16 where the machine computes in it")
    parser.add_argument("--steps", type=int, help="train each round so many steps")
    parser.add_argument("--hours", type=float, help="give each round as many steps as fit in that time")
    parser.add_argument("--seed", type=int, help="overrides the configs'")
    parser.add_argument("--cfg-options", nargs="+", action=OptionsAction, metavar="KEY=VALUE", help="of every config")
    args = parser.parse_args()
    checkpoint = train_rounds(
        args.configs,
        args.work_dir,
        lambda k, of, what: say(f"round {k} of {of}: {what}"),
        args.cfg_options,
        resume=args.resume,
        overwrite=args.overwrite,
        amp=args.amp,
        seed=args.seed,
        steps=args.steps,
        hours=args.hours,
    )
    print(f"{checkpoint}: weights of the last round; measure them with tools/test.py {args.configs[-1]} {checkpoint}")


if __name__ == "__main__":
    main()
