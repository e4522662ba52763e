# Mean Teacher on the cardiac phantom.
_base_ = ["../_base_/settings/phantom_cardiac.py", "../_base_/methods/mean_teacher.py"]
model = dict(backbone=dict(num_classes=4))
