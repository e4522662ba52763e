"""Every setting of every method's config, typed wrong: each must end in one message, before the first step is made.

python tests/fuzz/settings.py [--methods unimatch bcp] [--workers 2] [--taken]

Ends with how many were taken and refused, and every traceback, crash and message of Python's own wording.
"""

import argparse
import collections
import contextlib
import io
import os
import re
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

import pool

from cmems.apis import train
from cmems.apis.config import Texts, load_config
from cmems.apis.training import rehearse
from cmems.errors import InputError
from tools import REPO, TINY, build

# fmt: off
VALUES = ["abc", "''", "None", "True", "-1", "0", "0.5", "-0.5", "3", "nan", "inf", "[]", "[1]", "(1,2)", "(0.5,-1)",
          "[a,b]", "['abc']", "[None]", "[[1,2],[3,4]]", "{}", "dict(a=1)", "dict(type='X')", "[dict(type='X')]"]
# fmt: on
METHODS = ["everything", *sorted(p.parent.name for p in REPO.glob("configs/*/unet_acdc.py") if p.parent.name[0] != "_")]
# Of seeds, folders and processes, other values mean other runs.
ASIDE = ("randomness", "launcher", "work_dir", "log_level", "env_cfg", "default_scope")
WHOLE = ("train_dataloader.propagation", "train_dataloader.orientation")  # left out of a rehearsal
# What says it all without the key.
PLAIN = (
    "is not registered",
    "a dict with a type",
    "cannot be merged",
    "prepared data set",
    "expected labels",
    "learning rate",
)
# What none of the methods' configs has, on top of CMEMS+.
EVERYTHING = """
train_dataloader.update(
    propagation=dict(type="FlowPropagation"),
    orientation=dict(type="StackOrientation"),
)
train_dataloader["synthetic"]["synthesizer"] = dict(
    fit=dict(type="BodyFit", level=0.03, limit=2.0),
    apart=dict(type="OrganJitter", classes=(1, 2, 3), degrees=15.0, scale=(0.7, 1.4), shift=0.02),
    outlines=(),  # which are not beside apart
    organs=[
        dict(type="MatchQuantiles", share=(0.0, 1.0), quantiles=17),
        dict(type="AmplitudeMix", window=0.05, strength=(0.0, 1.0), probability=0.5),
        dict(type="Trabeculae", classes=(3,), wall=2, amount=(0.0, 0.5), depth=(0.3, 1.0), border=1.5, cells=(12, 28)),
    ],
    background="unknown",
    ring=4,
)
model["strong"] = [
    dict(type="GaussianBlur", sigma=(0.1, 1.0), probability=0.5),
    dict(type="Sharpness", strength=1.0, probability=0.5),
]
model["prediction"] = dict(views=1, scales=[1.0, 1.5], resize="labels", averaged=False, unknown_below=0.5, clean=[
    dict(type="RemoveSmall", mm3=10.0, classes=(1, 2)),
    dict(type="FillHoles", classes=(3,)),
    dict(type="SmoothSlices"),
])
"""


def main():
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--taken", action="store_true", help="list what was taken too, to be looked over")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as base:
        build(Path(base))  # and goes there
        counts = collections.Counter()
        for (_, key, value), outcome, text in pool.run(jobs(args.methods), attempt, args.workers):
            counts[outcome] += 1
            if outcome not in ("refused", "taken") or args.taken and outcome == "taken":
                print(f"{outcome} {key}={value} {text}", flush=True)
    print(", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
    return bool(counts.keys() - {"taken", "refused"})


def jobs(methods):
    """Yield ``(config, key, value)``; a setting that several methods have is tried once."""
    seen = set()
    for method in methods:
        path, base = f"{method}_every.py", f"{'cmems_plus' if method == 'everything' else method}/unet_acdc.py"
        text = TINY.format(repo=REPO, base=base, data="prepared")
        if isinstance(load_config(f"configs/{base}").model.backbone, list):  # which one width does not fit
            text = text.replace("model = dict(backbone=dict(channels=(16, 16, 16, 16, 16)))\n", "")
        Path(path).write_text(text + EVERYTHING * (method == "everything"))
        for key in keys(load_config(path)._cfg_dict.to_dict()):
            for value in VALUES if not key.startswith(ASIDE) else ():
                kind = (re.sub(r"\.\d+(?=\.|$)", "", key), value)
                if kind not in seen:
                    seen.add(kind)
                    yield path, key, value


def keys(node, path=""):
    """Yield the dotted keys of a config's sections and settings."""
    parts = node.items() if isinstance(node, dict) else enumerate(node)
    for name, value in parts:
        key = f"{path}{name}"
        yield key
        if isinstance(value, dict) or isinstance(value, (list, tuple)) and value and isinstance(value[0], dict):
            yield from keys(value, f"{key}.")


def attempt(job):
    """Make the first step of a config with one setting typed; return the outcome and what is wrong with it."""
    path, key, value = job
    options, said = Texts({key: value}), io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if key.startswith(WHOLE):
                with tempfile.TemporaryDirectory() as folder:
                    train(path, os.path.join(folder, "w"), cfg_options=Texts({**options, "train_cfg.max_iters": "1"}))
            else:
                rehearse(path, options)
    except InputError as error:
        words = str(error)
        if any(each in words for each in PLAIN):
            return "refused", ""
        ours = not re.search(
            r"argument after|object is not|has no attribute|not supported between|unhashable|must be callable|keyword",
            words,
        )
        named = any(part.rstrip("0123456789") in words for part in key.split(".")[-2:])
        return ("refused", "") if ours and named else ("unclear", words[:300])
    except Exception as error:
        where = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)
                 if "cmems" in f.filename]  # fmt: skip
        return "traceback", f"{where[-1:]} {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return "taken", ""


if __name__ == "__main__":
    sys.exit(main())
