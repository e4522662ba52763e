# Global and local contrastive pre-training on the abdomen phantom.
_base_ = ["../_base_/settings/phantom_abdomen.py", "../_base_/methods/glcl.py"]
model = dict(backbone=dict(num_classes=9), weak=dict(quarter_turns=False, flip=0.0), strong=dict(strength=0.2))
