# A second round: a fresh network on the masks that the first round made of the training scans, and on warped copies of
# the exemplar, in strong views. Nothing is asked of unlabelled images: their masks are there.
_base_ = "../models/mutual_unet.py"
model = dict(
    num_networks=1,
    ema_momentum=0.99,
    strong=dict(type="ColorJitter", strength=0.5, probability=0.8),
    objectives=[
        dict(type="Supervised", source="exemplar", view="strong", weight=0.5),
        dict(type="Supervised", source="static", view="strong"),
    ],
    prediction=dict(resize="probabilities", averaged=True),
)
budget = dict(rates={3000: 1e-3, 30000: 3e-4})
