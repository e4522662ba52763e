# CMEMS+ on ACDC at 128x128 pixels; the first of two rounds (unet_acdc_128_round2.py).
_base_ = ["../_base_/settings/acdc_plus_128.py", "../_base_/methods/cmems_plus.py"]
model = {{_base_._heart}}
