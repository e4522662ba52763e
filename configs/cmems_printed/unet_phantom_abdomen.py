# CMEMS on the abdomen phantom with the paper's values for Synapse, Eq. 3 as printed: what the networks are not sure of
# becomes background.
_base_ = "../cmems/unet_phantom_abdomen.py"
objectives = [
    dict(type="Supervised", source="exemplar"),
    dict(type="Supervised", source="synthetic"),
    dict(type="Consistency", student="strong", teacher="cross", weight=0.1),  # L_cmip
    dict(type="Consistency", student="feature", teacher="cross", weight=0.09),  # L_cmfp
]
model = dict(pseudo_labeler=dict(threshold=0.8, below="background"), objectives=objectives)
