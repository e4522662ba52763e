"""Every registry of CMEMS under the scope ``cmems``.

A component becomes usable from a config by decorating its class::

    @PERTURBATIONS.register_module()
    class MyBlur: ...

and, when it lives outside the package, by ``custom_imports = dict(imports=["my_module"])`` in the config.
"""

import difflib
import inspect

import mmengine.registry as roots
from mmengine.registry import Registry as _Registry

from cmems.errors import InputError


class Registry(_Registry):
    """MMEngine's registry, whose answer to an unknown name is the known names near it.

    Raises:
        InputError: From ``get`` and ``build`` when neither this registry nor its parents know the name; from ``build``
            of what is no dict with a type.
    """

    def build(self, cfg, *args, **kwargs):
        """Build what a config names."""
        if not isinstance(cfg, dict) or "type" not in {**cfg, **(kwargs.get("default_args") or {})}:
            raise InputError(f"{self.name}: expected settings (a dict with a type), got {cfg!r}")
        return super().build(cfg, *args, **kwargs)

    def optional(self, cfg, default=None):
        """Build what a config names, or of None the default; None where that is none either."""
        chosen = default if cfg is None else cfg
        return None if chosen is None else self.build(chosen)

    def build_for(self, role, where, cfg, methods=(), arguments=None):
        """Build what a config names for a place that takes one kind of this registry's components.

        Args:
            role (str): The kind. A component tells its own by the attribute ``role``; one without fits anywhere.
            where (str): The place, as the error names it.
            cfg (dict): With a type.
            methods (sequence[str]): What the place asks of it, which one without a role may lack.
            arguments (int | None): How many it is called with there.

        Raises:
            InputError: It is of another kind.
        """
        built = self.build(cfg)
        lacks = not all(hasattr(built, name) for name in methods) or arguments and not _takes(built, arguments)
        if lacks or getattr(built, "role", None) not in (None, role):
            fit = [name for name in sorted(self.names()) if getattr(self.get(name), "role", None) == role]
            raise InputError(f"{where}: expected {' or '.join(fit)}, or the like, got {type(built).__name__}")
        return built

    def get(self, key):
        """Return the class or function registered under ``key``."""
        found = self._find(key)
        if found is None:
            known = sorted(self.names())
            near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            raise InputError(f"{self.name} '{key}' is not registered: {hint}known names: {', '.join(known)}")
        return found

    def __contains__(self, key):
        return self._find(key) is not None

    def _find(self, key):
        found = super().get(key) if key else None  # of '' MMEngine's own says nothing
        return None if inspect.ismodule(found) else found  # which it finds by any module's name

    def names(self):
        """Return what is registered here and in the parents; nothing is imported to look a name up."""
        names, registry = set(), self
        while registry is not None:
            registry.import_from_location()
            names.update(registry.module_dict)
            registry = registry.parent
        return names


def _takes(part, count):
    try:
        inspect.signature(part).bind(*[None] * count)
    except TypeError:
        return False
    return True


def _child(root, *locations):
    return Registry(root.name, parent=root, scope="cmems", locations=list(locations))


# The train loop, the runner that hosts it, and what acts around each step.
LOOPS = _child(roots.LOOPS, "cmems.engine")
RUNNERS = _child(roots.RUNNERS, "cmems.engine")
HOOKS = _child(roots.HOOKS, "cmems.engine", "cmems.visualization")
OPTIM_WRAPPERS = _child(roots.OPTIM_WRAPPERS, "cmems.engine")

# Training sources (exemplar, synthetic, unlabeled) and evaluation volumes; raw-layout readers; what
# slices are compared by; what carries labels to other slices; what tells how organs lie; Ω.
DATASETS = _child(roots.DATASETS, "cmems.datasets")
FUNCTIONS = _child(roots.FUNCTIONS, "cmems.datasets")
READERS = Registry("reader", scope="cmems", locations=["cmems.datasets"])
DESCRIPTIONS = Registry("description", scope="cmems", locations=["cmems.datasets"])
PROPAGATIONS = Registry("label propagation", scope="cmems", locations=["cmems.datasets"])
ORIENTATIONS = Registry("orientation", scope="cmems", locations=["cmems.datasets"])
SYNTHESIZERS = Registry("synthesizer", scope="cmems", locations=["cmems.datasets"])

# Learners; networks with encode and decode; what perturbs, labels, scores and cleans up their predictions.
MODELS = _child(roots.MODELS, "cmems.models")
BACKBONES = Registry("backbone", scope="cmems", locations=["cmems.models"])
PERTURBATIONS = Registry("perturbation", scope="cmems", locations=["cmems.models"])
PSEUDO_LABELERS = Registry("pseudo_labeler", scope="cmems", locations=["cmems.models"])
LOSSES = Registry("loss", scope="cmems", locations=["cmems.models"])
CONSISTENCY_LOSSES = Registry("consistency loss", scope="cmems", locations=["cmems.models"])
POST_PROCESSORS = Registry("post-processor", scope="cmems", locations=["cmems.models"])

METRICS = _child(roots.METRICS, "cmems.evaluation")

# Registries that CMEMS adds nothing to: named here so that their unknown names get the same answer. Without a location
# MMEngine looks for `cmems.utils`.
for _root in (
    roots.OPTIMIZERS,
    roots.PARAM_SCHEDULERS,
    roots.VISUALIZERS,
    roots.VISBACKENDS,
    roots.EVALUATOR,
    roots.LOG_PROCESSORS,
    roots.OPTIM_WRAPPER_CONSTRUCTORS,
    roots.DATA_SAMPLERS,
    roots.MODEL_WRAPPERS,
    roots.WEIGHT_INITIALIZERS,
    roots.RUNNER_CONSTRUCTORS,
):
    _child(_root, "cmems.engine")
