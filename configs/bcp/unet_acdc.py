# Bidirectional copy-paste on ACDC.
_base_ = ["../_base_/settings/acdc.py", "../_base_/methods/bcp.py"]
model = dict(backbone=dict(num_classes=4))
