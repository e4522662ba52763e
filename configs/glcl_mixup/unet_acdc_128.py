# Global and local contrastive pre-training on ACDC, CPU-sized.
_base_ = ["../_base_/settings/acdc_128.py", "../_base_/methods/glcl_mixup.py"]
model = dict(backbone=dict(num_classes=4))
