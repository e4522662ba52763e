"""``cmems rounds``."""

from cmems.cli.common import add_config, add_training, again, cfg_options, shell_words, training

ABOUT = "Train configs one after the other, or a prepared data set twice; each labels the training scans for the next."
EXAMPLE = "cmems rounds DATA --hours 0.25"


def add_arguments(parser):
    """Add what the command takes."""
    add_config(parser, many=True)
    parser.add_argument("--work-dir", help="where rounds and labels go; default that of the last config")
    add_training(parser, "each round")


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
        **training(args),
    )
    then = shell_words("cmems", "predict", rounds_of(args.configs)[-1], checkpoint, "SCANS", "MASKS")
    print(f"{checkpoint}: weights of the last round; next: {then}{again(args)}")
