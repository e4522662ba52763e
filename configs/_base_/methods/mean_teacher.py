# Mean Teacher (Tarvainen & Valpola 2017) on exemplar, synthetic and unlabelled images.
_base_ = "../models/mutual_unet.py"
# Left open for this problem: the student's view (strong), the factor (10) and its ramp (the first 30 % of the steps).
model = dict(
    num_networks=1,
    ema_momentum=0.99,
    pseudo_labeler=dict(threshold=0.0),
    objectives=[
        dict(type="Supervised", source="exemplar"),
        dict(type="Supervised", source="synthetic"),
        dict(
            type="Consistency", student="strong", teacher="ema", loss=dict(type="SoftmaxMSE"), weight=10.0, ramp_up=0.3
        ),
    ],
)
