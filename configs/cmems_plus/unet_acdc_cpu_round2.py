# CMEMS+ on ACDC, CPU-sized, second round, at finer pixels: 96x96 of 2.25 mm
# (prepare_data.py acdc RAW data/acdc_plus_96 --spacing 2.25 --crop 96). Run both rounds by tools/rounds.py.
_base_ = ["../_base_/settings/acdc_plus_cpu.py", "../_base_/methods/second_round.py"]
data_root = "data/acdc_plus_96"
train_dataloader = dict(
    data_root=data_root,
    static=dict(type="StaticLabels", batch_size=8, folder="work_dirs/cmems_plus/unet_acdc_cpu_round2/labels_1"),
)
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = dict(dataset=dict(data_root=data_root))
model = {{_base_._heart}}
train_cfg = dict(max_iters=1000, val_interval=250)
