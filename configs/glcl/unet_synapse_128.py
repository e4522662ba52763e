# Global and local contrastive pre-training on Synapse, CPU-sized.
_base_ = ["../_base_/settings/synapse_128.py", "../_base_/methods/glcl.py"]
model = dict(backbone=dict(num_classes=9), strong=dict(strength=0.2))
