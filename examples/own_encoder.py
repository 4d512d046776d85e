"""A vision encoder of your own, two convolutions: one step of training on noise, and its loss."""

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from violet import VioletForQuestionAnswering, named_configuration
from violet.modeling_violet import ENCODERS


class ConvNetConfig(PreTrainedConfig):
    model_type = "example_convnet"
    hidden_size: int = 32
    cell = (1, 16, 16)  # frames, rows and columns of pixels that one state stands for

    def grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        return frames, height // 16, width // 16


class ConvNet(PreTrainedModel):
    config_class = ConvNetConfig
    main_input_name = "pixel_values_videos"

    def __init__(self, config: ConvNetConfig):
        super().__init__(config)
        self.near = nn.Conv3d(3, 16, (3, 4, 4), stride=(1, 4, 4), padding=(1, 0, 0))
        self.far = nn.Conv3d(16, config.hidden_size, (1, 4, 4), stride=(1, 4, 4))
        self.post_init()

    def forward(self, pixel_values_videos: torch.Tensor, **kwargs) -> BaseModelOutput:
        states = self.far(self.near(pixel_values_videos.transpose(1, 2)).relu())
        return BaseModelOutput(
            last_hidden_state=states.permute(0, 2, 3, 4, 1)
        )  # (batch, frames, rows, columns, width)


AutoConfig.register("example_convnet", ConvNetConfig, exist_ok=True)
ENCODERS.add("example_convnet", ConvNet)

if __name__ == "__main__":
    config = named_configuration("violet-tiny", vision_config={"model_type": "example_convnet"}, num_labels=3)
    model = VioletForQuestionAnswering(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    videos, questions = torch.randn(2, 4, 3, 64, 64), torch.tensor([[2, 9, 8, 3], [2, 7, 6, 3]])
    loss = model(pixel_values_videos=videos, input_ids=questions, labels=torch.tensor([0, 2])).loss
    loss.backward()
    optimizer.step()
    print(f"loss {loss:.3f}")
