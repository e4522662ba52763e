"""From CPS to CMEMS, one change at a time: python tools/compare.py docs/examples/cps_to_cmems.py --seeds 0 1 2."""

datasets = ["phantom_abdomen"]
title = "From CPS to CMEMS, one change at a time"

exemplar = dict(type="Supervised", source="exemplar")
synthetic = dict(type="Supervised", source="synthetic")


def answer(student, weight=1.0, teacher="cross"):
    """Return the objective in which a student's view answers to a teacher's label."""
    return dict(type="Consistency", student=student, teacher=teacher, weight=weight)


def row(label, method, objectives=None, **options):
    """Return a row: a method's config with other objectives or options of the model."""
    options.update({"objectives": objectives} if objectives else {})
    return dict(
        label=label,
        config=f"configs/{method}/unet_{{dataset}}.py",
        options={f"model.{key}": value for key, value in options.items()},
    )


rows = [
    row("CPS", "cps"),
    row("CPS, synthetic images", "cps_sd"),
    row("CPS, a view for each network", "cps", shared_weak=[]),
    row("CPS, strong view", "cps", [exemplar, answer("strong")]),
    row("CPS, perturbed features", "cps", [exemplar, answer("weak"), answer("feature", 0.09)]),
    row("CMEMS", "cmems"),
    row("CMEMS, one view for both", "cmems", shared_weak=["unlabeled"]),
    row("CMEMS, weak view", "cmems", [exemplar, synthetic, answer("weak"), answer("feature", 0.09)]),
    row(
        "CMEMS, one weak view for both",
        "cmems",
        [exemplar, synthetic, answer("weak"), answer("feature", 0.09)],
        shared_weak=["unlabeled"],
    ),
    row(
        "CMEMS, one network that answers to itself",
        "cmems",
        [exemplar, synthetic, answer("strong", teacher="self"), answer("feature", 0.09, teacher="self")],
        num_networks=1,
    ),
]
