# CMEMS on ACDC, Eq. 3 as printed: what the networks are not sure of becomes background.
_base_ = "../cmems/unet_acdc.py"
model = dict(pseudo_labeler=dict(below="background"))
