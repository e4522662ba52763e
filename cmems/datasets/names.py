"""Names of cases, which become names of files, and of what JSON files list."""

import difflib
import re
import unicodedata

# What Windows reserves, with any ending.
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


SHEET = "slices.png"  # what `cmems pick` draws beside empty masks


def composed(name):
    """Return a name in Unicode's composed form, so that names which look alike are one, whichever system wrote them."""
    return unicodedata.normalize("NFC", name)


def patient_of(case):
    """Return the name of a case without the frame that ACDC's cases end in: a patient's two scans have one."""
    return re.sub(r"_frame\d+$", "", case)


def near(name, names):
    """Return, for a message, those of ``names`` that a wrong one may mean, or else some that there are."""
    if found := difflib.get_close_matches(name, names, n=3, cutoff=0.3):
        return f"near: {', '.join(found)}"
    return f"there are {', '.join(sorted(names)[:3]) or 'none'}{', …' * (len(names) > 3)}"


def each_once(pairs):
    """Return the object of JSON's pairs, for ``json.loads``, which by itself takes the last of a name's values.

    Raises:
        ValueError: A name stands there twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in found if names.count(name) > 1)!r} stands there twice")
    return found


def name_problem(name):
    r"""Return why a case name cannot be a file's name on every system, or None.

    A name with a separator or of dots would lead out of its folder; \ and : do so on Windows alone.
    """
    if not isinstance(name, str):
        return f"case name {name!r}: expected text"
    odd = sorted({c for c in name if c in '/\\:*?"<>|' or not c.isprintable()})
    if odd:
        return f'case name {name!r}: expected none of / \\ : * ? " < > | nor control characters'
    if not name or name != name.strip() or name[0] == "." or name[-1] == "." or _RESERVED.fullmatch(name):
        return f"case name {name!r}: no file can be called so on every system"
    if len(name.encode(errors="surrogatepass")) > 200:
        return f"case name {name[:40]!r}…: expected 200 bytes or fewer, got {len(name.encode())}"
    return None
