"""Signs that networks give a class up, read from what a run logged."""

_FEWEST = 20  # records of a third of the run that a statement takes
_LATEST = 5  # records of its end
_GONE = 1e-5  # share of pixels


def collapse_signs(history, classes, steps):
    """Name what points to a collapse so far.

    Args:
        history (list[dict]): Rows of :func:`cmems.visualization.curves.read_history`.
        classes (sequence[str]): Foreground classes.
        steps (int): Steps of the whole run.

    Returns:
        dict[tuple[str, str], str]: A sentence by (kind, class): ``("fading", class)``: its share of the pseudo-labels
        fell for a third of the run, quarter by quarter, and to less than two thirds; ``("gone", class)``: it had a
        share, and has none for a twentieth of the run; ``("absent", class)``: it had none in the first half of the run;
        ``("threshold", "")``: next to no pixel, or every one, was over τ for a tenth of the run, its first tenth
        aside. In a short run a twentieth, or a tenth, is five records.
    """
    signs = {}
    now = history[-1]["step"] if history else 0
    for name in classes:
        points = _points(history, f"share_{name}")
        third = [(step, share) for step, share in points if step > now - steps / 3]
        if len(third) >= _FEWEST and third[0][0] <= now - 0.3 * steps:
            means = _means(third, 4)
            if all(b < a for a, b in zip(means, means[1:], strict=False)) and means[-1] < 2 / 3 * means[0]:
                signs["fading", name] = (
                    f"{name}: its share of the pseudo-labels fell for a third of the run, from "
                    f"{100 * means[0]:.2g} % to {100 * means[-1]:.2g} % of the pixels"
                )
        recent = _latest(points, now - steps / 20)
        if recent and max(recent) < _GONE:
            if max(share for _, share in points) >= _GONE:
                signs["gone", name] = f"{name}: no pixel of the pseudo-labels any more"
            elif now >= steps / 2:
                signs["absent", name] = f"{name}: no pixel of the pseudo-labels in half of the run"
    recent = _latest(_points(history, "share_confident"), now - steps / 10)
    if now > steps / 5 and recent:  # at first no network is sure of anything
        if max(recent) < 0.02:
            signs["threshold", ""] = "less than 2 % of the pixels are over the threshold: the pseudo-labels say nothing"
        elif min(recent) > 0.9999:
            signs["threshold", ""] = "every pixel is over the threshold: it keeps nothing out"
    return signs


def _points(history, key):
    return [(row["step"], row[key]) for row in history if isinstance(row.get(key), float)]


def _latest(points, since):
    """Return the values after a step, and ``_LATEST`` at least; none where there are fewer."""
    found = [value for step, value in points if step > since]
    found = found if len(found) >= _LATEST else [value for _, value in points[-_LATEST:]]
    return found if len(found) >= _LATEST else []


def _means(points, parts):
    bounds = [round(i * len(points) / parts) for i in range(parts + 1)]
    values = [value for _, value in points]
    return [sum(values[a:b]) / (b - a) for a, b in zip(bounds, bounds[1:], strict=False)]
