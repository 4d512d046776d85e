"""Public weights of other models, by random instances of their real classes if those are installed."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.models.video.swin_transformer import SwinTransformer3d
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    SwinConfig,
    SwinForImageClassification,
)

import violet
from violet.cli import main
from violet.configuration import NAMED_CONFIGURATIONS, VioletConfig, VioletVisionConfig
from violet.data import moving_shapes, open_ended
from violet.hub import ConversionError, build_model, from_original
from violet.modeling_violet import Tokens, VioletForMaskedLM, VioletForPreTraining, VioletModel, VioletVisionModel
from violet.modeling_violet.encoders.video_swin import relative_position_index
from violet.processing import VideoTextProcessor, train_wordpiece_tokenizer

EMBED, DEPTHS, HEADS = 32, (2, 2), (1, 2)
WIDTH, VOCABULARY = 64, 50


def randomize(network):
    """Weights large enough for every part to count."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        spread = 0.5 if parameter.dim() == 1 else parameter.shape[-1] ** -0.5
        parameter.data = spread * torch.randn(parameter.shape, generator=generator)
    return network.eval()


def torchvision_swin():
    return randomize(SwinTransformer3d([2, 4, 4], EMBED, DEPTHS, HEADS, [8, 7, 7], num_classes=5))


def features(network, pixels):
    """What torchvision's network gives behind its last norm."""
    kept = []
    hook = network.norm.register_forward_hook(lambda module, inputs, output: kept.append(output))
    network(pixels)
    hook.remove()
    return kept[0]


def clip(frames=5, side=70):
    return torch.randn(2, frames, 3, side, side - 4, generator=torch.Generator().manual_seed(1))


def as_swin_project(names, first=0):
    """Names of torchvision's Swin -> those of the Swin projects; `first`: the number of its first stage."""
    renamed = {}
    for name in names:
        if found := re.match(r"features\.(\d+)\.(\d+)\.(.*)", name):
            stage, block, rest = int(found[1]) - first, found[2], found[3]
            rest = rest.replace("mlp.0.", "mlp.fc1.").replace("mlp.3.", "mlp.fc2.")
            renamed[name] = f"layers.{stage // 2}.blocks.{block}.{rest}"
        if found := re.match(r"features\.(\d+)\.(reduction|norm)\.(\w+)$", name):
            renamed[name] = f"layers.{(int(found[1]) - first) // 2}.downsample.{found[2]}.{found[3]}"
    return renamed


@torch.no_grad()
@pytest.mark.parametrize("frames, side", [(5, 70), (2, 32), (20, 64)])
def test_torchvisions_video_swin_gives_its_own_outputs(frames, side):
    network = torchvision_swin()
    model, report = from_original(network.state_dict())
    assert type(model) is VioletVisionModel and model.config.temporal_stride == 2 and not report.new
    assert set(report.used) | set(report.skipped) == set(network.state_dict())
    expected = features(network, clip(frames, side).transpose(1, 2))
    assert expected.std() > 0.1
    torch.testing.assert_close(model(clip(frames, side)).last_hidden_state, expected, rtol=0, atol=1e-4)


@torch.no_grad()
def test_the_video_swin_projects_file(tmp_path):
    network = torchvision_swin()
    renamed = as_swin_project(network.state_dict())
    weights = {
        "cls_head.fc_cls." + name.removeprefix("head.")
        if name.startswith("head.")
        else "backbone." + renamed.get(name, name): value
        for name, value in network.state_dict().items()
    }
    torch.save({"meta": {"epoch": 30}, "state_dict": weights, "optimizer": {}}, tmp_path / "swin.pth")
    model, report = from_original(tmp_path / "swin.pth")
    assert report.kind == "Video Swin" and set(weights) <= set(report.used) | set(report.skipped)
    expected = features(network, clip().transpose(1, 2))
    torch.testing.assert_close(model(clip()).last_hidden_state, expected, rtol=0, atol=1e-4)
    del weights["backbone.layers.1.blocks.1.attn.qkv.bias"]
    with pytest.raises(ConversionError, match=r"layers\.1\.blocks\.1\.attn\.qkv\.bias"):
        from_original(weights)


def picture_swin():
    """A Swin for pictures, and its weights by the Swin project's names."""
    network = randomize(SwinTransformer([4, 4], EMBED, DEPTHS, HEADS, [7, 7], num_classes=5))
    names = network.state_dict()
    renamed = as_swin_project(names, first=1)
    renamed |= {name: name.replace("features.0.0.", "patch_embed.proj.") for name in names if "features.0.0." in name}
    renamed |= {name: name.replace("features.0.2.", "patch_embed.norm.") for name in names if "features.0.2." in name}
    weights = {renamed.get(name, name): value for name, value in names.items()}
    for name, value in weights.items():
        if name.endswith("relative_position_index"):
            weights[name] = value.view(49, 49)
    return network, weights | {"layers.0.blocks.1.attn_mask": torch.zeros(64, 49, 49)}


@torch.no_grad()
def test_a_still_clip_gives_what_the_swin_for_pictures_gave():
    network, weights = picture_swin()
    model, report = from_original({"model": weights})
    assert not report.new and not report.unlike and "layers.0.blocks.1.attn_mask" in report.skipped
    picture = clip(frames=1, side=72)
    expected = features(network, picture[:, 0])
    output = model(picture.expand(-1, 6, -1, -1, -1)).last_hidden_state
    assert output.shape[1] == 3 and expected.std() > 0.1
    for frame in range(3):
        torch.testing.assert_close(output[:, frame], expected, rtol=0, atol=1e-4)


@torch.no_grad()
def test_a_swin_of_transformers_is_taken_from_its_folder(tmp_path):
    settings = {"image_size": 72, "embed_dim": EMBED, "depths": DEPTHS, "num_heads": HEADS, "window_size": 7}
    network = randomize(SwinForImageClassification(SwinConfig(**settings)))
    network.save_pretrained(tmp_path)
    model, report = from_original(tmp_path)
    assert not report.new and set(report.skipped) == {"classifier.weight", "classifier.bias"}
    picture = clip(frames=1, side=72)[..., :68]
    picture = torch.nn.functional.pad(picture, (0, 4))
    expected = network.swin(picture[:, 0]).last_hidden_state
    output = model(picture.expand(-1, 6, -1, -1, -1)).last_hidden_state
    assert output.shape[1] == 3 and expected.std() > 0.1
    for frame in range(3):
        torch.testing.assert_close(output[:, frame].flatten(1, 2), expected, rtol=0, atol=1e-4)
    key = "swin.encoder.layers.1.blocks.0.attention.self.key.weight"
    weights = load_file(tmp_path / "model.safetensors")
    for broken in ({}, {key: weights[key][1:]}):
        with pytest.raises(ConversionError, match=r"layers\.1\.blocks\.0\.attention\.self\..*(key|query|value)"):
            from_original({name: value for name, value in weights.items() if name != key} | broken)


def test_a_backbone_in_a_violet_leaves_the_rest_new():
    network = torchvision_swin()
    model, report = from_original(network.state_dict(), VioletModel, small_configuration())
    swin = "video_encoder.swin."
    assert {name for name in model.state_dict() if name.startswith(swin)} == set(report.loaded)
    assert set(report.new) == set(model.state_dict()) - set(report.loaded)
    assert all("holds no such part" in why for why in report.new.values())
    table = "stages.0.blocks.0.attn.relative_position_bias_table"
    assert torch.equal(
        model.state_dict()[swin + table], network.state_dict()["features.0.0.attn.relative_position_bias_table"]
    )


def small_configuration(**changes) -> VioletConfig:
    fields = {
        "vision_config": VioletVisionConfig(embed_dim=EMBED, depths=DEPTHS, num_heads=HEADS),
        "hidden_size": WIDTH,
        "vocab_size": VOCABULARY,
        "num_hidden_layers": 2,
        "num_attention_heads": 1,
        "intermediate_size": 96,
        "max_position_embeddings": 12,
        "mask_token_id": 4,
        "bos_token_id": 2,
        "eos_token_id": 3,
    }
    return VioletConfig(**(fields | changes))


def bert(model_class=BertForMaskedLM, layers=3, heads=1):
    torch.manual_seed(0)
    return randomize(
        model_class(
            BertConfig(
                vocab_size=VOCABULARY,
                hidden_size=WIDTH,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                intermediate_size=96,
                max_position_embeddings=12,
            )
        )
    )


@torch.no_grad()
def assert_reads_as_bert(model, network):
    ids = torch.arange(1, 21).view(2, 10)
    words = model.violet.text_embeddings(ids)
    torch.testing.assert_close(words, network.bert.embeddings(ids), rtol=0, atol=1e-5)
    states = model.violet.fusion({"text": Tokens(words, torch.ones_like(ids))})["text"]
    expected = network(ids).logits
    assert expected.std() > 0.1
    torch.testing.assert_close(model.mlm_head(states), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("source", ["folder", "state dict", "old names"])
def test_a_bert_becomes_text_fusion_and_words(source, tmp_path):
    network = bert(layers=2)
    network.save_pretrained(tmp_path)
    given = tmp_path if source == "folder" else network.state_dict()
    if source == "old names":  # as bert-base-uncased has them
        given = {
            key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
            for key, value in given.items()
            if key != "cls.predictions.decoder.bias"
        }
        given["bert.embeddings.position_ids"] = torch.arange(12)[None]
        given["bert.pooler.dense.weight"] = torch.zeros(WIDTH, WIDTH)
    model, report = from_original(given, config=small_configuration())
    assert type(model) is VioletForMaskedLM and not report.unlike
    assert_reads_as_bert(model, network)
    assert set(report.new) == {name for name in model.state_dict() if "video_encoder" in name or "order" in name}


def test_a_bert_without_words_head_leaves_it_new():
    model, report = from_original(bert(BertModel).state_dict(), VioletForMaskedLM, small_configuration())
    assert {name for name in report.new if name.startswith("mlm_head.")} == {
        name for name in model.state_dict() if name.startswith("mlm_head.")
    }
    assert report.skipped["encoder.layer.2.output.dense.bias"] == "the configuration has fewer layers"
    assert "pooler" in report.skipped["pooler.dense.bias"]


def test_swinbert():
    swin, network = torchvision_swin(), bert(layers=2)
    renamed = as_swin_project(swin.state_dict())
    weights = {"swin.backbone." + renamed.get(k, k): v for k, v in swin.state_dict().items() if "head" not in k}
    weights |= {"trans_encoder." + k: v for k, v in network.state_dict().items() if not k.endswith("decoder.bias")}
    weights |= {
        "fc.weight": torch.zeros(512, WIDTH),
        "fc.bias": torch.zeros(512),
        "trans_encoder.bert.img_embedding.weight": torch.zeros(WIDTH, 512),
        "trans_encoder.bert.img_embedding.bias": torch.zeros(WIDTH),
        "trans_encoder.bert.pooler.dense.weight": torch.zeros(WIDTH, WIDTH),
        "trans_encoder.bert.pooler.dense.bias": torch.zeros(WIDTH),
        "learn_vid_att.weight": torch.zeros(9, 1),
    }
    model, report = from_original(weights, config=small_configuration())
    assert report.kind == "SwinBERT" and set(report.used) | set(report.skipped) == set(weights)
    assert_reads_as_bert(model, network)
    table = "features.0.0.attn.relative_position_bias_table"
    block = model.violet.video_encoder.swin.stages[0].blocks[0]
    assert torch.equal(block.attn.relative_position_bias_table, swin.state_dict()[table])
    assert all(name.startswith("violet.video_encoder.") and ".swin." not in name for name in report.new)


def test_a_model_is_built_from_public_parts(tmp_path):
    swin, network = torchvision_swin(), bert()
    network.save_pretrained(tmp_path)
    torch.save(swin.state_dict(), tmp_path / "swin.pth")
    model = violet.build_model(small_configuration(), vision=tmp_path / "swin.pth", text=tmp_path)
    assert type(model) is VioletForPreTraining
    reports = model.conversion_report
    assert set(reports["vision"].loaded).isdisjoint(reports["text"].loaded)
    first_two = bert(layers=2)
    first_two.load_state_dict(network.state_dict(), strict=False)
    assert_reads_as_bert(model, first_two)
    backbone = from_original(tmp_path / "swin.pth")[0].state_dict()
    assert all(torch.equal(v, backbone[k]) for k, v in model.violet.video_encoder.swin.state_dict().items())
    new = set(model.state_dict()) - set(reports["vision"].loaded) - set(reports["text"].loaded)
    assert new == set(reports["vision"].new) & set(reports["text"].new) and any("match_head" in name for name in new)


def test_each_part_of_a_model_may_start_alone():
    swin = torchvision_swin().state_dict()
    model = build_model(small_configuration(), vision=swin, model_class=VioletModel)
    assert list(model.conversion_report) == ["vision"]
    assert build_model(small_configuration()).conversion_report == {}


def test_what_does_not_fit_is_refused_by_name(tmp_path):
    bert(heads=2).save_pretrained(tmp_path)
    with pytest.raises(ConversionError, match="num_attention_heads.* is 2 .*and 1"):
        build_model(small_configuration(), text=tmp_path)
    words = bert(BertModel).state_dict()
    for options, complaint in (
        ({"configuration": small_configuration(num_hidden_layers=4), "text": words}, r"`text`.*encoder\.layer\.3\."),
        ({"configuration": small_configuration(vocab_size=60), "text": words}, r"`text`.*word_embeddings"),
        ({"configuration": "violet-tiny", "vision": torchvision_swin().state_dict()}, r"`vision`.*features\."),
        ({"configuration": small_configuration(), "vision": words}, "`vision`.*BERT holds nothing for it"),
    ):
        with pytest.raises(ConversionError, match=complaint):
            build_model(**options)
    with pytest.raises(ValueError, match="violet-huge"):
        build_model("violet-huge")


def test_weights_of_no_known_kind_are_refused():
    with pytest.raises(ConversionError, match="'conv1.weight'"):
        from_original({"conv1.weight": torch.zeros(3, 3)})
    with pytest.raises(ConversionError, match="make no model: .*vocab_size"):
        from_original({"embeddings.word_embeddings.weight": torch.zeros(0, 0)})
    with pytest.raises(ConversionError, match="nothing of BERT has a place"):
        from_original(bert().state_dict(), VioletVisionModel)


@pytest.mark.slow
def test_the_readmes_way_from_public_weights_to_a_fine_tuned_model(tmp_path, monkeypatch, capfd, shapes_folder):
    """Its lines as they stand there, with small instances of the real classes under the public names."""
    readme = (Path(violet.__file__).parent / "README.md").read_text()
    blocks = [block for block in re.findall(r"```python\n(.*?)```", readme, re.S) if "build_model(" in block]
    code, of_any_encoder = blocks
    finetuning, asking = re.search(r"```bash\n(violet finetune.*?)\n(violet predict.*?)\n```", readme, re.S).groups()
    width, shapes = 64, {"embed_dim": 16, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 4, 8)}
    clips = moving_shapes(shapes_folder, train=24, validation=4, test=8, test_unseen=0, test_together=0)
    rows = open_ended(clips["train"])
    tokenizer = train_wordpiece_tokenizer([f"{row['question']} {row['caption']}" for row in rows])
    text = {"vocab_size": len(tokenizer), "hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 1}
    text |= {"intermediate_size": 96, "max_position_embeddings": 40}
    monkeypatch.setitem(
        NAMED_CONFIGURATIONS, "violet-v2-base", {"vision_config": VioletVisionConfig(**shapes), **text}
    )
    monkeypatch.chdir(tmp_path)
    pictures = randomize(SwinForImageClassification(SwinConfig(image_size=224, window_size=7, **shapes)))
    pictures.save_pretrained("microsoft/swin-base-patch4-window7-224")
    words = randomize(BertForMaskedLM(BertConfig(**text)))
    words.save_pretrained("bert-base-uncased")
    tokenizer.save_pretrained("bert-base-uncased")
    table = rows.select(range(8)).to_pandas()[["video", "question", "answer"]]
    for name in ("train.csv", "test.csv"):
        table.to_csv(name, index=False)
    Path("clips").symlink_to(Path(rows[0]["video"]).parent)

    exec(code, {})
    few = ["--max_steps=1", "--per_device_train_batch_size=2", "--per_device_eval_batch_size=2"]
    few += ["--dataloader_num_workers=0", "--save_strategy=no"]
    assert main([*shlex.split(finetuning.replace("\\\n", ""))[1:], *few]) == 0
    words_kept = VioletForPreTraining.from_pretrained("outputs/start").get_input_embeddings().weight
    assert torch.equal(words_kept, words.get_input_embeddings().weight), "the fine-tuning began with BERT's words"
    capfd.readouterr()
    assert main(shlex.split(asking)[1:]) == 0
    assert len(capfd.readouterr().out.splitlines()) == 24

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}
    pair = CLIPModel(CLIPConfig(vision_config={**sizes, "image_size": 32, "patch_size": 16}, text_config=sizes))
    pair.save_pretrained("openai/clip-vit-base-patch16")
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained("openai/clip-vit-base-patch16")
    exec(of_any_encoder, {})
    started = VioletForPreTraining.from_pretrained("outputs/clip")
    assert type(started.config.vision_config).__name__ == "CLIPVisionConfig"
    assert VideoTextProcessor.from_pretrained("outputs/clip").video_processor.size.height == 32


@pytest.mark.parametrize("window", [(8, 7, 7), (16, 7, 7), (4, 4, 4), (5, 7, 7), (2, 12, 12)])
def test_the_window_is_read_from_table_and_index(window):
    network = SwinTransformer3d([2, 4, 4], EMBED, (1, 1), HEADS, list(window), num_classes=5)
    model, _ = from_original(network.state_dict())
    assert tuple(model.config.window_size) == window
    index = model.stages[0].blocks[0].attn.relative_position_index
    assert torch.equal(index, relative_position_index(window))
