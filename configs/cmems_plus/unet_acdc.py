# CMEMS+ on ACDC at full size.
_base_ = ["../_base_/settings/acdc_plus.py", "../_base_/methods/cmems_plus.py"]
model = {{_base_._heart}}
