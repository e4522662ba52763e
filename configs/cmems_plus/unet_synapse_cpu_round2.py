# CMEMS+ on Synapse, CPU-sized, second round, at finer pixels: 112x112 of 3.2 mm
# (prepare_data.py synapse RAW data/synapse_plus_112 --spacing 3.2 --crop 112). Run both rounds by tools/rounds.py.
_base_ = ["../_base_/settings/synapse_plus_cpu.py", "../_base_/methods/second_round.py"]
data_root = "data/synapse_plus_112"
train_dataloader = dict(
    data_root=data_root,
    static=dict(type="StaticLabels", batch_size=8, folder="work_dirs/cmems_plus/unet_synapse_cpu_round2/labels_1"),
)
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = dict(dataset=dict(data_root=data_root))
model = {{_base_._abdomen}}
train_cfg = dict(max_iters=1000, val_interval=250)
