# FixMatch on the cardiac phantom.
_base_ = ["../_base_/settings/phantom_cardiac.py", "../_base_/methods/fixmatch.py"]
model = dict(backbone=dict(num_classes=4))
