# CMEMS+ on ACDC, CPU-sized; the first of two rounds (unet_acdc_cpu_round2.py).
_base_ = ["../_base_/settings/acdc_plus_cpu.py", "../_base_/methods/cmems_plus.py"]
model = {{_base_._heart}}
budget = dict(rates={600: 4e-3})  # and as in the base from 3,000 steps on
