"""What people look at: metric tables, overlay panels, training curves, progress."""

from cmems.visualization.curves import plot_curves, read_history
from cmems.visualization.hooks import CurvesHook, MetricTableHook, PanelHook
from cmems.visualization.panels import panel, write_png
from cmems.visualization.progress import ProgressHook, say
from cmems.visualization.tables import metric_rows, metric_table, write_metrics

__all__ = [
    "CurvesHook",
    "MetricTableHook",
    "PanelHook",
    "ProgressHook",
    "metric_rows",
    "metric_table",
    "panel",
    "plot_curves",
    "read_history",
    "say",
    "write_metrics",
    "write_png",
]
