# Mean Teacher on Synapse, CPU-sized.
_base_ = ["../_base_/settings/synapse_128.py", "../_base_/methods/mean_teacher.py"]
model = dict(backbone=dict(num_classes=9), strong=dict(strength=0.2))
