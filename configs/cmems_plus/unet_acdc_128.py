# CMEMS+ on ACDC at 128x128 pixels; the first of two rounds (unet_acdc_128_round2.py).
_base_ = ["../_base_/settings/acdc_plus_128.py", "../_base_/methods/cmems_plus.py"]
heart = [
    dict(type="KeepLargest", of="foreground"),
    dict(type="KeepLargest", classes=(2, 3)),
    dict(type="KeepLargest", classes=(1,), beside=2),
]
model = dict(backbone=dict(num_classes=4), prediction=dict(views=8, clean=heart))
budget = dict(rates={3000: 1e-3, 30000: 3e-4})
del heart
