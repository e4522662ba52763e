# Cross pseudo supervision on the cardiac phantom.
_base_ = ["../_base_/settings/phantom_cardiac.py", "../_base_/methods/cps.py"]
model = dict(backbone=dict(num_classes=4))
