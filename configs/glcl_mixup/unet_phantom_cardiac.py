# Global and local contrastive pre-training on the cardiac phantom.
_base_ = ["../_base_/settings/phantom_cardiac.py", "../_base_/methods/glcl_mixup.py"]
model = dict(backbone=dict(num_classes=4))
