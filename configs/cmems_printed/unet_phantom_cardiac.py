# CMEMS on the cardiac phantom, Eq. 3 as printed: what the networks are not sure of becomes background.
_base_ = "../cmems/unet_phantom_cardiac.py"
model = dict(pseudo_labeler=dict(below="background"))
