"""From words to a command."""

import cmems
from cmems.cli import (
    check,
    compare,
    demo,
    evaluate,
    export,
    info,
    phantom,
    pick,
    predict,
    prepare,
    publish,
    report,
    rounds,
    train,
)
from cmems.cli.common import Command, Help, main_guard
from cmems.errors import InputError

# Each module has ABOUT, one sentence; EXAMPLE; add_arguments(parser); and run(args), which alone imports torch.
COMMANDS = dict(
    pick=pick,
    prepare=prepare,
    check=check,
    train=train,
    rounds=rounds,
    evaluate=evaluate,
    predict=predict,
    publish=publish,
    export=export,
    compare=compare,
    report=report,
    phantom=phantom,
    demo=demo,
    info=info,
)
_SHORT = {"evaluate": ["test"]}


@main_guard
def main(command=None):
    """Run the command that ``sys.argv`` names, or the given one with the arguments there.

    Args:
        command (str | None): A key of ``COMMANDS``; the files in ``tools/`` are each one command.
    """
    if command is not None:
        parser = Command(**_about(COMMANDS[command]))
        COMMANDS[command].add_arguments(parser)
        COMMANDS[command].run(_full(parser.parse_args()))
        return
    parser = Command(
        prog="cmems",
        description="Segment medical images from one labelled slice.",
        epilog="example:\n  cmems demo\n\n`cmems COMMAND --help` has each command's options, with an example.",
        formatter_class=Help,
    )
    parser.add_argument("--version", action="version", version=f"cmems {cmems.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        about = _about(module)
        one = commands.add_parser(name, aliases=_SHORT.get(name, []), help=about["description"].rstrip("."), **about)
        module.add_arguments(one)
        one.set_defaults(run=module.run)
    args = _full(parser.parse_args())
    args.run(args)


def _full(args):
    """Refuse empty words, which a shell makes of a variable that is not set; as paths they would mean this folder."""
    words = ((name, value if isinstance(value, list) else [value]) for name, value in vars(args).items())
    empty = [name for name, values in words if "" in values]
    if empty:
        raise InputError(f"{empty[0].replace('_', '-')}: expected a word, got an empty one; is a variable not set?")
    return args


def _about(module):
    return dict(description=module.ABOUT, epilog=f"example:\n  {module.EXAMPLE}", formatter_class=Help)
