# UniMatch on ACDC as its authors trained it with one labelled case: all 32 slices of patient099, no synthetic images,
# 256x256 (prepare_data.py acdc RAW data/acdc_256 --size 256). Their log, on validation and test patients together:
# 0.838 after 12,700 steps, 0.854 at best, which they chose there, 0.846 at the end. tools/test.py measures on both
# here; training looks at the validation patients alone.
_base_ = ["../_base_/settings/acdc.py", "../_base_/models/mutual_unet.py"]
data_root = "data/acdc_256"
train_dataloader = dict(
    data_root=data_root,
    exemplar_slice=None,
    labeled_cases=["patient099_frame01", "patient099_frame09"],
)
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = dict(dataset=dict(data_root=data_root, split="valtest"))
# Their loss is half of labelled and unlabelled parts together; of unlabelled images it is Dice alone.
dice = dict(type="CrossEntropyDice", ce=0.0, dice=1.0)
strong = dict(type="Consistency", teacher="self", loss=dice, weight=0.125, mix=dict(type="CutMix"))
model = dict(
    num_networks=1,
    backbone=dict(num_classes=4),
    weak=dict(type="RandomRotateFlip", quarter_turns=True, flip=0.5, degrees=20),
    strong=[
        dict(type="ColorJitter", strength=0.5, probability=0.8),
        dict(type="GaussianBlur", sigma=(0.1, 2.0), probability=0.5),
    ],
    pseudo_labeler=dict(threshold=0.95, below="ignore"),
    objectives=[
        dict(type="Supervised", source="exemplar", weight=0.5),
        dict(student="strong", **strong),
        dict(student="strong2", **strong),
        dict(type="Consistency", student="feature", teacher="self", loss=dice, weight=0.25),
    ],
)
del strong, dice
optim_wrapper = dict(optimizer=dict(_delete_=True, type="SGD", lr=0.01, momentum=0.9, weight_decay=1e-4))
param_scheduler = dict(type="PolyLR", power=0.9, eta_min=0.0, by_epoch=False)
train_cfg = dict(max_iters=31800, val_interval=1060)
