# CMEMS on ACDC, CPU-sized.
# As unet_acdc.py, pixels below the threshold are left out, unlike Eq. 3 as printed (configs/cmems_printed).
_base_ = ["../_base_/settings/acdc_128.py", "../_base_/models/mutual_unet.py"]
objectives = [
    dict(type="Supervised", source="exemplar"),
    dict(type="Supervised", source="synthetic"),
    dict(type="Consistency", student="strong", teacher="cross", weight=1.0),  # L_cmip
    dict(type="Consistency", student="feature", teacher="cross", weight=0.09),  # L_cmfp
]
model = dict(backbone=dict(num_classes=4), pseudo_labeler=dict(below="ignore"), objectives=objectives)
