# CMEMS+ on ACDC, CPU-sized, third round, at the finest pixels: 128x128 of 1.75 mm
# (prepare_data.py acdc RAW data/acdc_plus_128 --spacing 1.75 --crop 128). Run all rounds by tools/rounds.py.
_base_ = "./unet_acdc_cpu_round2.py"
data_root = "data/acdc_plus_128"
train_dataloader = dict(data_root=data_root, static=dict(folder="work_dirs/cmems_plus/unet_acdc_cpu_round3/labels_2"))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = dict(dataset=dict(data_root=data_root))
