"""Rows of torchvision's and timm's models: tiny images, few layers, every rate that the model has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from rows.tiny import x

Built = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]


def tv(path: str, size: int = 32, given: tuple[int, ...] = (), **how: Any) -> Callable[[], Built]:
    """A class or function of torchvision.models, with its arguments."""

    def build() -> Built:
        import torchvision.models as models

        made = models
        for part in path.split("."):
            made = getattr(made, part)
        return made(**how), (x(*(given or (4, 3, size, size))),), {}

    return build


def tm(name: str, size: int = 32, **how: Any) -> Callable[[], Built]:
    """A model of timm by its name."""

    def build() -> Built:
        import timm

        return timm.create_model(name, num_classes=3, **how), (x(4, 3, size, size),), {}

    return build


def tm_class(path: str, size: int = 32, **how: Any) -> Callable[[], Built]:
    """A class of timm.models, with its arguments."""

    def build() -> Built:
        import timm.models as models

        module, name = path.split(".")
        found = {k: v(models) if callable(v) and not isinstance(v, type) else v for k, v in how.items()}
        return getattr(getattr(models, module), name)(num_classes=3, **found), (x(4, 3, size, size),), {}

    return build


_VIT = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
_RATES = {"drop_rate": 0.1, "drop_path_rate": 0.2}

TORCHVISION: list[tuple[str, Callable[[], Built]]] = [
    ("SqueezeNet", tv("squeezenet1_1", 32, num_classes=3)),
    ("GoogLeNet", tv("googlenet", 32, num_classes=3, aux_logits=False, init_weights=False)),
    ("GoogLeNet, heads for training", tv("googlenet", 64, num_classes=3, aux_logits=True, init_weights=False)),
    ("DenseNet", tv("DenseNet", 32, growth_rate=4, block_config=(2, 2), num_init_features=8, drop_rate=0.2, num_classes=3)),
    ("MobileNet v2", tv("mobilenet_v2", 32, num_classes=3, width_mult=0.25)),
    ("MobileNet v3", tv("mobilenet_v3_small", 32, num_classes=3, width_mult=0.25)),
    ("MNASNet", tv("MNASNet", 32, alpha=0.25, num_classes=3, dropout=0.2)),
    ("EfficientNet b0", tv("efficientnet_b0", 32, num_classes=3)),
    ("Swin t", tv("swin_transformer.SwinTransformer", 32, patch_size=[4, 4], embed_dim=8, depths=[2, 2], num_heads=[2, 2], window_size=[4, 4], dropout=0.1, attention_dropout=0.1, stochastic_depth_prob=0.2, num_classes=3)),
    ("ViT", tv("VisionTransformer", 16, image_size=16, patch_size=4, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=24, dropout=0.1, attention_dropout=0.1, num_classes=3)),
    ("MaxViT", tv("MaxVit", 64, input_size=(64, 64), stem_channels=8, partition_size=2, block_channels=[8, 8], block_layers=[1, 1], head_dim=4, stochastic_depth_prob=0.2, attention_dropout=0.1, mlp_dropout=0.1, num_classes=3)),
    ("Swin 3d", tv("video.swin_transformer.SwinTransformer3d", given=(2, 3, 4, 32, 32), patch_size=[2, 4, 4], embed_dim=8, depths=[2], num_heads=[2], window_size=[2, 4, 4], dropout=0.1, attention_dropout=0.1, stochastic_depth_prob=0.2, num_classes=3)),
]  # fmt: skip

TIMM: list[tuple[str, Callable[[], Built]]] = [
    ("ViT", tm_class("vision_transformer.VisionTransformer", 16, **_VIT, pos_drop_rate=0.1, proj_drop_rate=0.1, attn_drop_rate=0.1, **_RATES)),
    ("ViT, PatchDropout", tm_class("vision_transformer.VisionTransformer", 16, **_VIT, patch_drop_rate=0.25, drop_rate=0.1)),
    ("ViT, layer scale", tm_class("vision_transformer.VisionTransformer", 16, **_VIT, init_values=1e-5, drop_path_rate=0.2)),
    ("DeiT, distilled", tm_class("deit.VisionTransformerDistilled", 16, **_VIT, **_RATES)),
    ("BEiT", tm_class("beit.Beit", 16, **_VIT, init_values=1e-5, **_RATES)),
    ("EVA", tm_class("eva.Eva", 16, **_VIT, **_RATES)),
    ("CaiT", tm_class("cait.Cait", 16, **_VIT, **_RATES)),
    ("Swin", tm_class("swin_transformer.SwinTransformer", 16, img_size=16, patch_size=2, embed_dim=8, depths=(2, 2), num_heads=(2, 2), window_size=4, proj_drop_rate=0.1, attn_drop_rate=0.1, **_RATES)),
    ("Swin v2", tm_class("swin_transformer_v2.SwinTransformerV2", 16, img_size=16, patch_size=2, embed_dim=8, depths=(2, 2), num_heads=(2, 2), window_size=4, proj_drop_rate=0.1, attn_drop_rate=0.1, **_RATES)),
    ("ConvNeXt", tm_class("convnext.ConvNeXt", 32, depths=(1, 1, 1, 1), dims=(8, 8, 8, 8), **_RATES)),
    ("MLP-Mixer", tm_class("mlp_mixer.MlpMixer", 16, img_size=16, patch_size=4, num_blocks=2, embed_dim=16, proj_drop_rate=0.1, **_RATES)),
    ("PVT v2", tm_class("pvt_v2.PyramidVisionTransformerV2", 64, depths=(1, 1, 1, 1), embed_dims=(8, 8, 8, 8), num_heads=(1, 2, 2, 2), **_RATES)),
    ("XCiT", tm_class("xcit.Xcit", 32, img_size=32, patch_size=16, embed_dim=16, depth=2, num_heads=2, cls_attn_layers=1, **_RATES)),
    ("Twins", tm_class("twins.Twins", 32, img_size=32, embed_dims=(8, 8, 8, 8), num_heads=(1, 2, 2, 2), depths=(1, 1, 1, 1), wss=(2, 2, 1, 1), **_RATES)),
    ("FocalNet", tm_class("focalnet.FocalNet", 32, depths=(1, 1, 1, 1), embed_dim=8, proj_drop_rate=0.1, **_RATES)),
    ("ResNet with DropBlock", tm("test_resnet", 64, drop_block_rate=0.1, **_RATES)),
    ("test_resnet", tm("test_resnet", 32, **_RATES)),
    ("test_vit", tm("test_vit", 160, **_RATES)),
    ("test_vit2", tm("test_vit2", 160, **_RATES)),
    ("test_vit3", tm("test_vit3", 160, **_RATES)),
    ("test_convnext", tm("test_convnext", 32, **_RATES)),
    ("test_convnext2", tm("test_convnext2", 32, **_RATES)),
    ("test_efficientnet", tm("test_efficientnet", 32, **_RATES)),
    ("test_byobnet", tm("test_byobnet", 32, **_RATES)),
    ("test_nfnet", tm("test_nfnet", 32, **_RATES)),
    ("test_mambaout", tm("test_mambaout", 32, **_RATES)),
    ("RegNet", tm("regnetx_002", 32, **_RATES)),
    ("MobileNet v3", tm("tf_mobilenetv3_small_minimal_100", 32, **_RATES)),
    ("GhostNet", tm("ghostnet_050", 32, drop_rate=0.1)),
    ("EdgeNeXt", tm("edgenext_xx_small", 64, **_RATES)),
    ("CSPNet", tm("resnet10t", 32, **_RATES)),
    ("MobileOne", tm("mobileone_s0", 32, drop_rate=0.1)),
    ("DenseNet", tm_class("densenet.DenseNet", 32, growth_rate=4, block_config=(2, 2), drop_rate=0.1, proj_drop_rate=0.2)),
    ("FastViT", tm("fastvit_t8", 64, **_RATES)),
    ("Hiera", tm_class("hiera.Hiera", 64, img_size=(64, 64), embed_dim=8, num_heads=1, stages=(1, 1, 1, 1), **_RATES)),
    ("ConViT", tm_class("convit.ConVit", 16, **_VIT, proj_drop_rate=0.1, attn_drop_rate=0.1, **_RATES)),
    ("Nest", tm_class("nest.Nest", 32, img_size=32, patch_size=4, num_levels=2, embed_dims=(8, 8), num_heads=(2, 2), depths=(1, 1), **_RATES)),
    ("VOLO", tm_class("volo.VOLO", 32, layers=(1, 1), img_size=32, patch_size=8, stem_hidden_dim=8, embed_dims=(8, 8), num_heads=(2, 2), downsamples=(True, False), outlook_attention=(True, False), **_RATES)),
]  # fmt: skip
