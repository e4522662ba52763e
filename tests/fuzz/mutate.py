"""Change the core in small ways, one at a time, and see whether its tests notice: python tests/fuzz/mutate.py.

A mutant is one operator, comparison, number or condition changed; texts, messages, defaults and annotations are left
out. It is compiled in a process forked where all but CMEMS is imported, and meets the tests of its module alone,
without those that train or start commands. A mutant that uses more than ``--seconds`` of processor time counts as
killed.
"""

import argparse
import ast
import copy
import importlib.machinery
import os
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

import pytest
from prettytable import PrettyTable

REPO = Path(__file__).parents[2]
NOT = "trains or train_as or dead or resumes or command or every_config or second_round or validation or refused_where"
CORE = {
    "geometry": (["geometry.py"], ["test_perturbations", "test_properties", "test_synthesis", "test_method"]),
    "synthesis": (
        ["datasets/orientation.py", *(f"datasets/synthesis/{n}.py" for n in ("geometric", "intensity", "paste"))],
        ["test_synthesis", "test_propagation", "test_method", "test_processes"],
    ),
    "sampling": (
        ["seeding.py", "datasets/sources.py", "datasets/store.py"],
        ["test_perturbations", "test_properties", "test_processes", "test_datasets", "test_prediction"],
    ),
    "pseudo-labels": (["models/pseudo_labelers/confidence.py"], ["test_method", "test_properties"]),
    "losses": (
        ["models/losses/segmentation.py", "models/losses/objectives.py", "models/losses/auxiliary.py"],
        ["test_method", "test_methods", "test_properties", "test_processes"],
    ),
    "metrics": (["evaluation/metrics.py", "evaluation/scores.py"], ["test_evaluation", "test_properties"]),
    "resizing": (["resize.py"], ["test_prediction", "test_properties", "test_datasets"]),
    "readers": (
        [f"datasets/readers/{n}.py" for n in ("base", "geometry", "nifti", "files", "slices", "folder", "acdc")],
        ["test_readers", "test_formats", "test_properties", "test_datasets"],
    ),
}
SWAPS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
    ast.Pow: ast.Mult, ast.MatMult: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitAnd,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


def places(tree):
    """List the nodes of a module that can be changed, in the order of its text."""
    passed = set()
    for node in ast.walk(tree):
        left_out = []
        if isinstance(node, (ast.FunctionDef, ast.Lambda)):
            left_out = [*node.args.defaults, *node.args.kw_defaults, *getattr(node, "decorator_list", [])]
        elif isinstance(node, ast.AnnAssign):
            left_out = [node.annotation]
        elif isinstance(node, ast.keyword) and node.arg == "strict":  # of zip: a net under what is checked elsewhere
            left_out = [node.value]
        elif isinstance(node, (ast.JoinedStr, ast.Raise, ast.Assert)):
            left_out = [node]
        passed.update(id(inner) for part in left_out if part for inner in ast.walk(part))
    return [node for node in ast.walk(tree) if id(node) not in passed and changed(copy.copy(node))]


def changed(node):
    """Change a node in place, and say how; None where it cannot be."""
    if isinstance(node, (ast.BinOp, ast.AugAssign, ast.BoolOp)) and type(node.op) in SWAPS:
        before, node.op = type(node.op), SWAPS[type(node.op)]()
        return f"{before.__name__} to {type(node.op).__name__}"
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        before = type(node.ops[0])
        node.ops = [SWAPS[before](), *node.ops[1:]]
        return f"{before.__name__} to {type(node.ops[0]).__name__}"
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub, ast.Invert)):
        before, node.op = type(node.op), ast.UAdd()
        if before is ast.Not:
            node.operand = ast.Call(ast.Name("bool", ast.Load()), [node.operand], [])
            return "Not left out"
        return f"{before.__name__} left out" if before is ast.USub else None
    if isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
        before = node.value
        # One more is nothing to what only has to be large.
        node.value = not before if isinstance(before, bool) else before + 1 if abs(before) < 1000 else -before
        return f"{before} to {node.value}"
    if isinstance(node, ast.IfExp):
        node.body, node.orelse = node.orelse, node.body
        return "branches swapped"
    return None


class Loader(importlib.machinery.SourceFileLoader):
    """Compiles a module with one place changed."""

    number = None

    def get_code(self, fullname):
        """Return the code of the mutant."""
        tree, self.what = mutant(Path(self.path), self.number)
        return compile(tree, self.path, "exec")


class Finder(importlib.machinery.PathFinder):
    """Finds one module in another form than on disk."""

    name = number = None

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        """Return the spec of the module that is changed."""
        spec = super().find_spec(fullname, path, target) if fullname == cls.name else None
        if spec:
            spec.loader = Loader(spec.loader.name, spec.loader.path)
            spec.loader.number = cls.number
        return spec


def mutant(path, number):
    """Return a module's tree with its place ``number`` changed, and what was done; None: unchanged."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if number is None:
        return tree, ""
    node = places(tree)[number]
    line = path.read_text(encoding="utf-8").splitlines()[node.lineno - 1].strip()
    what = f"{path.relative_to(REPO)}:{node.lineno}: {changed(node)}: {line}"
    return ast.fix_missing_locations(tree), what


def forked(act, seconds, output=os.devnull):
    """Run ``act`` in a process of its own with so much processor time; return its exit code, negative for a signal."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 70
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
        out = os.open(output, os.O_WRONLY)
        os.dup2(out, 1)
        os.dup2(out, 2)
        code = int(act())
    finally:
        os._exit(code)


def import_others(tests):
    """Import what the tests import, all but CMEMS and themselves: a fork of this process then starts at once."""
    listed = tempfile.TemporaryFile()  # noqa: SIM115

    def list_them():
        for name in tests:
            importlib.import_module(name)
        names = [n for n in sys.modules if n.split(".")[0] not in ("cmems", "conftest", *tests, "__main__")]
        listed.write("\n".join(names).encode())
        listed.flush()
        return 0

    with_tests = str(REPO / "tests")
    sys.path[:0] = [str(REPO), with_tests]
    assert forked(list_them, 600) == 0, "the tests cannot be imported"
    listed.seek(0)
    for name in listed.read().decode().split("\n"):
        try:
            importlib.import_module(name)
        except Exception:  # made by a test, or a part that imports CMEMS
            continue


def survives(path, number, tests, seconds, output=os.devnull):
    """Tell whether the tests pass with a place of a module changed; None: unchanged, they must."""

    def run():
        Finder.name = ".".join(("cmems", *path.relative_to(REPO / "cmems").with_suffix("").parts))
        Finder.number = number
        sys.meta_path.insert(0, Finder)
        sys.dont_write_bytecode = True
        os.chdir(REPO)
        files = [f"tests/{name}.py" for name in tests]
        return pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", f"not ({NOT})", *files])

    return forked(run, seconds, output) == 0


def main():
    """Run and print the table; exit 1 where the score is under the goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="mutants, spread over the modules by their places")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=CORE, default=list(CORE))
    parser.add_argument("--seconds", type=int, default=60, help="of processor time for each mutant")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so many, with what there is")
    parser.add_argument("--goal", type=float, default=0.85)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    everything = [
        (part, path, number)
        for part in args.only
        for path in (REPO / "cmems" / name for name in CORE[part][0])
        for number in range(len(places(ast.parse(path.read_text(encoding="utf-8")))))
    ]
    chosen = random.Random(args.seed).sample(everything, min(args.count, len(everything)))
    import_others(sorted({test for part in args.only for test in CORE[part][1]}))
    until, counts, survivors = time.monotonic() + 60 * args.minutes, {}, []
    for part in dict.fromkeys(part for part, _, _ in chosen):
        path = REPO / "cmems" / CORE[part][0][0]
        with tempfile.NamedTemporaryFile() as said:
            if not survives(path, None, CORE[part][1], 10 * args.seconds, said.name):
                sys.exit(f"{Path(said.name).read_text()[-2000:]}\nthe tests of {part} fail as they are")
    for part, path, number in chosen:
        if time.monotonic() > until:
            break
        lives = survives(path, number, CORE[part][1], args.seconds)
        made, killed = counts.get(part, (0, 0))
        counts[part] = made + 1, killed + (not lives)
        if lives:
            survivors.append(mutant(path, number)[1])
            print(survivors[-1])
    made, killed = (sum(each) for each in zip(*counts.values(), strict=True))
    table = PrettyTable(["", "mutants", "killed", "score"], align="r")
    for part, (m, k) in {**counts, "all": (made, killed)}.items():
        table.add_row([part, m, k, f"{k / m:.0%}"])
    print(f"{len(everything)} places\n{table}")
    sys.exit(killed < args.goal * made)


if __name__ == "__main__":
    main()
