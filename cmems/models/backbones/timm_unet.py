"""A UNet whose encoder is any feature pyramid of the ``timm`` library."""

import difflib

from torch import nn

from cmems.errors import InputError
from cmems.models.backbones.base import EncoderDecoder
from cmems.models.backbones.unet import UpBlock
from cmems.registry import BACKBONES


@BACKBONES.register_module()
class TimmUNet(EncoderDecoder):
    """A ``timm`` encoder with the UNet's decoder, e.g. ``dict(type="TimmUNet", encoder="resnet34", num_classes=4)``.

    Needs ``pip install timm``. ``encode`` returns the encoder's maps, fine to coarse; the finest has a half or a
    quarter of the image's height and width. The decoder doubles until the image's size, without a skip where the
    encoder has no map. Height and width must be multiples of ``divisor``, the coarsest map's stride (mostly 32).

    Args:
        num_classes (int): K, background included.
        encoder (str): Name of a timm model that gives a pyramid (``timm.list_models()`` has them). Default
            ``resnet34``.
        pretrained (bool): Download the weights of that model, which no paper about one labelled slice uses.
        in_channels (int): Image channels. Default 1; timm adapts pretrained weights.
        channels (tuple[int]): Channels of the decoder per doubling, fine to coarse, as many as there are doublings.
        encoder_args (dict | None): More arguments for ``timm.create_model``, e.g. ``dict(img_size=256)`` or
            ``dict(strict_img_size=False)`` for transformers of fixed size.
        conv_cfg, norm_cfg, act_cfg (dict | None): The decoder's layers, for mmcv's builders.

    Raises:
        InputError: When timm is missing or does not know the encoder, when the encoder gives no pyramid whose strides
            double, when ``channels`` does not match it; for images that do not fit.
    """

    def __init__(
        self,
        num_classes,
        encoder="resnet34",
        pretrained=False,
        in_channels=1,
        channels=(16, 32, 64, 128, 256),
        encoder_args=None,
        conv_cfg=None,
        norm_cfg=None,
        act_cfg=None,
    ):
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.encoder = _create(encoder, pretrained, in_channels, encoder_args or {})
        widths, strides = self.encoder.feature_info.channels(), self.encoder.feature_info.reduction()
        first = strides[0].bit_length() - 1  # doublings from the image to the finest map
        if first < 0 or strides != [2 ** (first + i) for i in range(len(strides))]:
            raise InputError(
                f"TimmUNet: encoder '{encoder}' gives maps of stride {', '.join(map(str, strides))}; expected strides "
                "that double, such as 2, 4, 8, 16, 32"
            )
        self.divisor = strides[-1]
        doublings = first + len(strides) - 1
        if len(channels) != doublings:
            raise InputError(
                f"TimmUNet: encoder '{encoder}' needs {doublings} values in channels, one per doubling, "
                f"got {len(channels)}"
            )
        layers = dict(
            conv_cfg=conv_cfg,
            norm_cfg=norm_cfg or dict(type="BN"),
            act_cfg=act_cfg or dict(type="LeakyReLU", negative_slope=0.01),
        )
        skips = [*widths[-2::-1], *(0 for _ in range(first))]
        coarse = (widths[-1], *channels[:0:-1])
        self.decoder = nn.ModuleList(
            UpBlock(i, c, skip, **layers) for i, c, skip in zip(coarse, channels[::-1], skips, strict=True)
        )
        self.feature_channels, self.level_channels = tuple(widths), (widths[-1], *channels[::-1])
        self.head = nn.Conv2d(channels[0], num_classes, 3, padding=1)

    def encode(self, images):
        """Encode ``(B, C, H, W)`` images into the encoder's maps, fine to coarse, each ``(B, C, H, W)``."""
        self.check_input(images)
        features = self.encoder(images)
        if self.encoder.output_fmt == "NHWC":
            features = [f.permute(0, 3, 1, 2) for f in features]
        return list(features)

    def decode_levels(self, features):
        """Decode the encoder's maps, coarse to fine, up to the image's size."""
        levels = [features[-1]]
        skips = [*features[-2::-1], *(None for _ in range(len(self.decoder) - len(features) + 1))]
        for block, skip in zip(self.decoder, skips, strict=True):
            levels.append(block(levels[-1], skip))
        return levels


def _create(name, pretrained, in_channels, encoder_args):
    try:  # here, since CMEMS does not require timm
        import timm
    except ImportError as error:
        raise InputError(f"TimmUNet needs the timm library: pip install timm ({error})") from error
    except RuntimeError as error:  # how torchvision, which timm imports, answers to a torch it was not built for
        raise InputError(
            f"TimmUNet: timm cannot be imported; is torchvision of the same release and kind as torch? ({error})"
        ) from error
    try:
        return timm.create_model(name, pretrained=pretrained, features_only=True, in_chans=in_channels, **encoder_args)
    except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        near = [] if timm.is_model(name) else difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        hint = f" (did you mean {' or '.join(near)}?)" if near else ""
        raise InputError(f"TimmUNet: timm makes no feature pyramid of encoder '{name}'{hint}: {error}") from error
