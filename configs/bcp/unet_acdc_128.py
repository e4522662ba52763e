# Bidirectional copy-paste on ACDC, CPU-sized.
_base_ = ["../_base_/settings/acdc_128.py", "../_base_/methods/bcp.py"]
model = dict(backbone=dict(num_classes=4))
