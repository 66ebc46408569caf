"""A residual network with a small stem, its tensors named as torchvision names them.

    from transformers import AutoModel
    model = AutoModel.from_pretrained(FOLDER_OR_REPOSITORY, trust_remote_code=True).eval()
    features = model(pixel_values).pooler_output
"""

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling


class SelfsupResNetConfig(PretrainedConfig):
    model_type = "selfsup-resnet"

    def __init__(self, layer_type="basic", depths=(1, 1, 1, 1), width=64, stem="cifar", **kwargs):
        super().__init__(**kwargs)
        self.layer_type, self.depths, self.width, self.stem = layer_type, list(depths), width, stem


class Block(nn.Module):
    """Two 3×3 convolutions, or 1×1, 3×3, 1×1 with the stride in the 3×3."""

    def __init__(self, bottleneck, c, width, stride):
        super().__init__()
        out = width * (4 if bottleneck else 1)
        if bottleneck:
            plan = [(c, width, 1, 1), (width, width, 3, stride), (width, out, 1, 1)]
        else:
            plan = [(c, width, 3, stride), (width, out, 3, 1)]
        self.count = len(plan)
        for i, (c_in, c_out, kernel, step) in enumerate(plan, 1):
            setattr(self, f"conv{i}", nn.Conv2d(c_in, c_out, kernel, step, kernel // 2, bias=False))
            setattr(self, f"bn{i}", nn.BatchNorm2d(c_out))
        self.downsample = None
        if stride != 1 or c != out:
            self.downsample = nn.Sequential(nn.Conv2d(c, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x):
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            if i < self.count:
                y = torch.relu(y)
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class SelfsupResNet(PreTrainedModel):
    config_class = SelfsupResNetConfig
    main_input_name = "pixel_values"

    def __init__(self, config):
        super().__init__(config)
        kernel, stride = {"imagenet": (7, 2), "cifar": (3, 1), "halving": (3, 2)}[config.stem]
        self.conv1 = nn.Conv2d(3, config.width, kernel, stride, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(config.width)
        self.pool = nn.MaxPool2d(3, 2, 1) if config.stem == "imagenet" else nn.Identity()
        c, bottleneck = config.width, config.layer_type == "bottleneck"
        for stage, depth in enumerate(config.depths):
            blocks = []
            for index in range(depth):
                width = config.width << stage
                blocks.append(Block(bottleneck, c, width, 2 if stage and not index else 1))
                c = width * (4 if bottleneck else 1)
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.post_init()

    def forward(self, pixel_values, **kwargs):
        x = self.pool(torch.relu(self.bn1(self.conv1(pixel_values))))
        for stage in range(len(self.config.depths)):
            x = getattr(self, f"layer{stage + 1}")(x)
        return BaseModelOutputWithPooling(last_hidden_state=x, pooler_output=x.mean((2, 3)))
