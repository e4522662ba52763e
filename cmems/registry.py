"""Every registry of CMEMS, children of MMEngine's roots under the scope ``cmems``.

A component becomes usable from a config by decorating its class::

    @PERTURBATIONS.register_module()
    class MyBlur: ...

and, when it lives outside the package, by ``custom_imports = dict(imports=["my_module"])`` in the config.
"""

from mmengine.registry import DATASETS as _DATASETS
from mmengine.registry import HOOKS as _HOOKS
from mmengine.registry import LOOPS as _LOOPS
from mmengine.registry import METRICS as _METRICS
from mmengine.registry import MODELS as _MODELS
from mmengine.registry import OPTIM_WRAPPERS as _OPTIM_WRAPPERS
from mmengine.registry import RUNNERS as _RUNNERS
from mmengine.registry import TRANSFORMS as _TRANSFORMS
from mmengine.registry import Registry

# The train loop and the runner that hosts it.
LOOPS = Registry("loop", parent=_LOOPS, scope="cmems", locations=["cmems.engine"])
RUNNERS = Registry("runner", parent=_RUNNERS, scope="cmems", locations=["cmems.engine"])
HOOKS = Registry("hook", parent=_HOOKS, scope="cmems", locations=["cmems.engine", "cmems.visualization"])
OPTIM_WRAPPERS = Registry("optim_wrapper", parent=_OPTIM_WRAPPERS, scope="cmems", locations=["cmems.engine"])

# Training sources (exemplar, synthetic, unlabeled), evaluation volumes, raw-layout readers, and Ω with its parts.
DATASETS = Registry("dataset", parent=_DATASETS, scope="cmems", locations=["cmems.datasets"])
READERS = Registry("reader", scope="cmems", locations=["cmems.datasets"])
SYNTHESIZERS = Registry("synthesizer", parent=_TRANSFORMS, scope="cmems", locations=["cmems.datasets"])

# Learners; networks with encode and decode; what perturbs, labels and scores their predictions.
MODELS = Registry("model", parent=_MODELS, scope="cmems", locations=["cmems.models"])
BACKBONES = Registry("backbone", parent=MODELS, scope="cmems", locations=["cmems.models"])
PERTURBATIONS = Registry("perturbation", parent=_TRANSFORMS, scope="cmems", locations=["cmems.models"])
PSEUDO_LABELERS = Registry("pseudo_labeler", parent=MODELS, scope="cmems", locations=["cmems.models"])
LOSSES = Registry("loss", parent=MODELS, scope="cmems", locations=["cmems.models"])
CONSISTENCY_LOSSES = Registry("consistency_loss", parent=LOSSES, scope="cmems", locations=["cmems.models"])

METRICS = Registry("metric", parent=_METRICS, scope="cmems", locations=["cmems.evaluation"])
