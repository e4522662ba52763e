# Mean Teacher on ACDC, CPU-sized.
_base_ = ["../_base_/settings/acdc_128.py", "../_base_/methods/mean_teacher.py"]
model = dict(backbone=dict(num_classes=4))
