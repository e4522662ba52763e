"""Training in bfloat16 on CPU and GPU."""

from contextlib import contextmanager

import torch
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from mmengine.utils import digit_version

from cmems.precision import computes_bfloat16
from cmems.registry import OPTIM_WRAPPERS

# Older torch keeps weights that it cast for a pseudo-label, and gives them no gradient later in the step.
_CASTS_ARE_KEPT = digit_version(torch.__version__) >= digit_version("2.13.0")


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(OptimWrapper):
    """MMEngine's OptimWrapper with the forward in bfloat16 autocast; losses and weights stay float32.

    bfloat16 has float32's range, so that no gradient scaling is needed. On a machine that would only emulate it,
    training stays in float32 and says so.

    Args:
        device (str | None): Device type. Default: ``cuda`` where there is one, else ``cpu``.
        **kwargs: OptimWrapper's.
    """

    def __init__(self, device=None, **kwargs):
        super().__init__(**kwargs)
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.enabled = computes_bfloat16(self.device)
        if not self.enabled:
            print_log(f"bfloat16: this {self.device} does not compute in it; training in float32", "current")

    @contextmanager
    def optim_context(self, model):
        """Enter autocast besides what OptimWrapper does for gradient accumulation."""
        bfloat16 = torch.autocast(self.device, torch.bfloat16, enabled=self.enabled, cache_enabled=_CASTS_ARE_KEPT)
        with super().optim_context(model), bfloat16:
            yield
