"""`save_pretrained` against a process that is killed, and what it leaves of older checkpoints."""

import json
import os
import stat
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoProcessor

from violet import VioletForQuestionAnswering, VioletVideoProcessor, VideoTextProcessor, named_configuration
from violet.files import _exchange
from violet.processing import train_wordpiece_tokenizer

SMALL = {
    "vision_config": {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 1), "window_size": (2, 2, 2)},
    "num_hidden_layers": 1,
    "hidden_size": 32,
    "projection_dim": 32,
    "vocab_size": 40,
    "num_attention_heads": 2,
}
VERSIONS = {0: ({"intermediate_size": 24}, "1GB"), 1: ({"intermediate_size": 48}, "20KB"), 2: ({}, "40KB")}
"""Checkpoints that differ in shapes, values and number of files: settings, and the most bytes of a shard."""


def model_of(version: int) -> VioletForQuestionAnswering:
    settings = SMALL | VERSIONS[version][0]
    model = VioletForQuestionAnswering(named_configuration("violet-tiny", id2label={0: "a", 1: "b"}, **settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(version)
    return model
