"""What labels mean that name no class, and which there are."""

from numbers import Integral

from cmems.errors import InputError

UNKNOWN = 255  # in uint8 labels: a pixel or voxel that nobody annotated, or of which a model is not sure


def label_list(part, key, labels):
    """Return a component's labels as a tuple.

    Raises:
        InputError: No list, or an empty one; naming component and setting.
    """
    if not isinstance(labels, (list, tuple, range)) or not labels:
        got = "none" if isinstance(labels, (list, tuple, range)) else repr(labels)[:60]
        raise InputError(f"{type(part).__name__}: {key}: expected labels, got {got}")
    return tuple(labels)


def check_labels(part, num_classes, where):
    """Refuse labels that there are not, in a component's settings and in those of its parts.

    Args:
        part: Any whose ``of_labels`` names its attributes that are a label, several, or None, and ``one_label`` those
            of them that are never several; parts are attributes of it, or in lists, that have ``of_labels`` too.
        num_classes (int): K, background included: labels are 1 to K - 1.
        where (str): Its key in the config; for the message.

    Raises:
        InputError: Naming component and setting.
    """
    for key in getattr(part, "of_labels", ()):
        named, one = getattr(part, key, None), key in getattr(part, "one_label", ())
        several = isinstance(named, (list, tuple, dict)) and not one
        for label in named if several else [named] * (named is not None):
            if not (isinstance(label, Integral) and not isinstance(label, bool) and 1 <= label < num_classes):
                raise InputError(
                    f"{where}: {type(part).__name__}: {key}: expected {'a label' if one else 'labels'}, "
                    f"1 to {num_classes - 1}, got {label!r}"
                )
    for value in getattr(part, "__dict__", {}).values():
        for each in value if isinstance(value, (list, tuple)) else [value]:
            if hasattr(each, "of_labels"):
                check_labels(each, num_classes, where)
