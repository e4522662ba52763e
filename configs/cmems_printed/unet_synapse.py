# CMEMS on Synapse, Eq. 3 as printed: what the networks are not sure of becomes background.
_base_ = "../cmems/unet_synapse.py"
model = dict(pseudo_labeler=dict(below="background"))
