# Cross pseudo supervision on ACDC, CPU-sized.
_base_ = ["../_base_/settings/acdc_128.py", "../_base_/methods/cps_sd.py"]
model = dict(backbone=dict(num_classes=4))
