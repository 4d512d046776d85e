"""The parts of transformers that are not documented, or whose methods ours replace: each by its name."""

import inspect
import warnings
from collections import OrderedDict

import pytest
import torch
from torch import nn
from transformers import GenerationMixin, Pipeline, PreTrainedModel, Trainer
from transformers.modeling_outputs import BaseModelOutput
from transformers.video_processing_utils import BaseVideoProcessor

import violet
from violet.core import upstream

REPLACED = {
    "generation: is the mode possible": (GenerationMixin._validate_generation_mode, "VioletForCaptioning"),
    "generation: the next step's inputs": (GenerationMixin.prepare_inputs_for_generation, "VioletForCaptioning"),
    "model: a module's first weights": (PreTrainedModel._init_weights, "VioletModel"),
    "pipeline: forward": (Pipeline._forward, "VideoCaptioningPipeline"),
    "trainer: the sampler": (Trainer._get_train_sampler, "VioletTrainer"),
    "trainer: a batch on the device": (Trainer._prepare_inputs, "VioletTrainer"),
    "trainer: the batches of a step": (Trainer.get_batch_samples, "VioletTrainer"),
    "trainer: the gradient's norm": (Trainer._get_grad_norm, "VioletTrainer"),
    "trainer: evaluation of a batch": (Trainer.prediction_step, "VioletTrainer"),
    "trainer: the loss": (Trainer.compute_loss, "VioletTrainer"),
    "trainer: the optimiser": (Trainer.create_optimizer, "VioletTrainer"),
    "trainer: a checkpoint": (Trainer._save_checkpoint, "VioletTrainer"),
    "trainer: the run's folder": (Trainer._get_output_dir, "VioletTrainer"),
    "trainer: an epoch": (Trainer._run_epoch, "VioletTrainer"),
    "trainer: the end of a step": (Trainer._maybe_log_save_evaluate, "VioletTrainer"),
    "trainer: publishing a checkpoint": (Trainer._push_from_checkpoint, "VioletTrainer"),
    "trainer: the repository": (Trainer.init_hf_repo, "VioletTrainer"),
    "video processor: frames of a clip": (BaseVideoProcessor.fetch_videos, "VioletVideoProcessor"),
    "video processor: which frames": (BaseVideoProcessor.sample_frames, "VioletVideoProcessor"),
    "video processor: pixels": (BaseVideoProcessor._preprocess, "VioletVideoProcessor"),
}
CALLED = {
    Trainer: ("_finish_current_push", "_load_best_model"),
    Pipeline: ("_prepare_generate_kwargs",),
    PreTrainedModel: ("_upload_modified_files",),
    BaseVideoProcessor: ("rescale_and_normalize", "resize", "center_crop"),
}


@pytest.mark.parametrize("theirs, name", REPLACED.values(), ids=REPLACED)
def test_a_method_that_ours_replaces_takes_no_argument_that_ours_does_not(theirs, name):
    ours = inspect.signature(getattr(getattr(violet, name), theirs.__name__)).parameters
    if any(one.kind is one.VAR_KEYWORD for one in ours.values()):
        return
    itself, first, *others = inspect.signature(theirs).parameters  # those two are given by their place
    assert len(ours) >= 2 + len(others)
    assert [name for name in others if name not in ours] == []


@pytest.mark.parametrize("owner, method", [(owner, name) for owner, names in CALLED.items() for name in names])
def test_a_method_that_ours_call_is_there(owner, method):
    assert callable(getattr(owner, method, None))


def test_attention_kernels_are_found_by_name():
    ours = object()
    assert upstream.ALL_ATTENTION_FUNCTIONS.get_interface("eager", ours) is ours
    assert callable(upstream.ALL_ATTENTION_FUNCTIONS.get_interface("sdpa", ours))


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_a_mask_is_made_from_a_rule(kernel):
    def later(batch_idx, head_idx, q_idx, kv_idx):
        return kv_idx <= q_idx

    mask = upstream.ALL_MASK_ATTENTION_FUNCTIONS[kernel](
        batch_size=2,
        q_length=2,
        kv_length=5,
        q_offset=3,
        mask_function=later,
        allow_is_causal_skip=False,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    seen = mask if mask.dtype == torch.bool else mask == 0
    expected = torch.tensor([[True, True, True, True, False], [True] * 5])
    assert torch.equal(seen.expand(2, 1, 2, 5), expected.expand(2, 1, 2, 5))


def test_a_bidirectional_mask_hides_padding_alone():
    config = violet.named_configuration("violet-tiny")
    config._attn_implementation = "sdpa"
    states, real = torch.zeros(2, 3, 4), torch.tensor([[1, 1, 1], [1, 1, 0]])
    mask = upstream.create_bidirectional_mask(config=config, inputs_embeds=states, attention_mask=real)
    assert torch.equal(mask.expand(2, 1, 3, 3), real.bool()[:, None, None, :].expand(2, 1, 3, 3))


def test_a_checkpointed_layer_is_computed_again():
    class Layer(upstream.GradientCheckpointingLayer):
        passes = 0

        def forward(self, x):
            self.passes += 1
            return x * x

    class Model(PreTrainedModel):
        config_class = violet.VioletVisionConfig
        supports_gradient_checkpointing = True

        def __init__(self, config):
            super().__init__(config)
            self.layer = Layer()
            self.post_init()

        def _init_weights(self, module):
            pass

    model = Model(violet.VioletVisionConfig()).train()
    assert not upstream.checkpoints_activations(model)
    upstream.checkpoint_activations(model)
    assert upstream.checkpoints_activations(model)
    model.layer(torch.ones(2, requires_grad=True)).sum().backward()
    assert model.layer.passes == 2


def test_an_auto_class_loads_what_its_table_names(tmp_path):
    config = violet.VioletVisionConfig(embed_dim=8, depths=(1,), num_heads=(1,))
    violet.VioletVisionModel(config).save_pretrained(tmp_path)
    mapping = upstream._LazyAutoMapping(OrderedDict(), OrderedDict())
    mapping.register(violet.VioletVisionConfig, (violet.VioletModel, violet.VioletVisionModel))
    auto = type("Auto", (upstream._BaseAutoModelClass,), {"_model_mapping": mapping})
    assert type(auto.from_pretrained(tmp_path)) is violet.VioletVisionModel


def test_the_pipeline_of_videos_classes_knows_a_model_by_its_name():
    from transformers.pipelines.video_classification import MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES as names

    assert names is upstream.MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES
    assert names["violet"] == "VioletForVideoClassification" and len(names) > 1


def test_jobs_of_a_push_are_waited_for():
    assert upstream.PushInProgress([]).is_done()


def test_a_forward_gives_a_tuple_where_no_dictionary_is_asked_for():
    class Model(nn.Module):
        config = violet.VioletVisionConfig()

        @upstream.can_return_tuple
        def forward(self, x):
            return BaseModelOutput(last_hidden_state=x)

    x = torch.ones(1)
    assert Model()(x, return_dict=False) == (x,)
    assert Model()(x).last_hidden_state is x


def test_sizes_in_words_are_bytes():
    assert upstream.convert_file_size_to_int("5GB") == 5 * 10**9


def test_outputs_of_layers_are_captured():
    class Model(PreTrainedModel):
        config_class = violet.VioletVisionConfig
        _can_record_outputs = {"hidden_states": nn.Tanh}

        def __init__(self, config):
            super().__init__(config)
            self.layers = nn.Sequential(nn.Tanh(), nn.Tanh())
            self.post_init()

        def _init_weights(self, module):
            pass

        @upstream.capture_outputs(tie_last_hidden_states=False)
        def forward(self, x, **kwargs):
            return BaseModelOutput(last_hidden_state=self.layers(x))

    x = torch.ones(1, 2)
    states = Model(violet.VioletVisionConfig())(x, output_hidden_states=True).hidden_states
    assert [state.tolist() for state in states] == [x.tolist(), x.tanh().tolist(), x.tanh().tanh().tolist()]


def test_clips_of_one_shape_are_stacked_and_come_back_in_order():
    clips = [torch.full((2, 3, side, 4), float(number)) for number, side in enumerate((5, 6, 5))]
    grouped, index = upstream.group_videos_by_shape(clips)
    assert sorted(stacked.shape[0] for stacked in grouped.values()) == [1, 2]
    assert all(torch.equal(a, b) for a, b in zip(upstream.reorder_videos(grouped, index), clips, strict=True))


def test_only_a_newer_transformers_than_was_tested_is_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        upstream.warn_if_untested()
        upstream.warn_if_untested(f"{upstream.TESTED}.9")
    with pytest.warns(UserWarning, match=rf"{upstream.TESTED}.*5\.99\.0"):
        upstream.warn_if_untested("5.99.0.dev0")
