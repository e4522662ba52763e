"""The configs that come with the package, where MMEngine looks for them: ``cmems::cmems/unet_acdc.py``."""
