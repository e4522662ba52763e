"""What labels mean that name no class."""

UNKNOWN = 255  # in uint8 labels: a pixel or voxel that nobody annotated, or of which a model is not sure
