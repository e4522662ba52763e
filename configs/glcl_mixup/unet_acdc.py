# Global and local contrastive pre-training on ACDC.
_base_ = ["../_base_/settings/acdc.py", "../_base_/methods/glcl_mixup.py"]
model = dict(backbone=dict(num_classes=4))
