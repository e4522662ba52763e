# Mean Teacher on Synapse.
_base_ = ["../_base_/settings/synapse.py", "../_base_/methods/mean_teacher.py"]
model = dict(backbone=dict(num_classes=9), strong=dict(strength=0.2))
