_base_ = "../../configs/cmems/unet_phantom_abdomen.py"
custom_imports = dict(imports=["confusion"])
test_evaluator = [dict(type="DSC"), dict(type="Confusion")]
