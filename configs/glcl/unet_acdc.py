# Global and local contrastive pre-training on ACDC.
_base_ = ["../_base_/settings/acdc.py", "../_base_/methods/glcl.py"]
model = dict(backbone=dict(num_classes=4))
