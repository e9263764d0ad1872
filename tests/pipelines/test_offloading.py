"""Offloaded weights: the same images with only what computes on the device; tiles and slices of the codec."""

import numpy as np
import pytest
import torch
from PIL import Image
from small_system import small_settings, stirred_system, unet_settings
from tiny_models import KL

from got_core.benchmarks.inference import Request
from got_core.benchmarks.memory import compare_memory
from got_core.diffusion.codecs import AutoencoderCodec, PixelCodec
from got_core.model import PARTS
from got_core.pipelines.pipeline import GoTPipeline

CHAIN = "a red circle (94,188),(469,562) (red) and a blue square (500,562),(900,962) (blue)"
CPU = torch.device("cpu")


def pipeline(settings: dict) -> GoTPipeline:
    return GoTPipeline(stirred_system(settings).model, (32, 32), settings)


@pytest.fixture(params=["transformer", "unet"])
def pipe(request):
    return pipeline(small_settings() if request.param == "transformer" else unet_settings())


@pytest.fixture(scope="module")
def photo():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))


def outputs(pipe: GoTPipeline, photo: Image.Image) -> list[torch.Tensor]:
    """An image from a prompt, and an edit of which a part is kept, from a given chain."""
    first = pipe("a red circle", seed=2, output_type="pt").images
    plan = pipe.given_plan(CHAIN, "swap", photo)
    return [first, pipe.generate(plan, seed=3, keep=photo, output_type="pt").images]


def seen_while_computing(pipe: GoTPipeline) -> dict[str, set[str]]:
    """Which components' weights are on the device whenever one computes, by its name, as it runs."""
    seen: dict[str, set[str]] = {name: set() for name in PARTS}

    def note(name):
        def hook(module, arguments):
            seen[name] |= pipe._offload.loaded

        return hook

    inner = {"reasoner": pipe.model.reasoner.qwen.model.language_model, "guidance": pipe.model.guidance.projector}
    inner["backbone"] = next(iter(pipe.model.backbone.children()))
    for name, module in inner.items():
        module.register_forward_pre_hook(note(name))
    return seen


def test_offloaded_components_make_the_same_images_one_at_a_time_on_the_device(pipe, photo):
    expected = outputs(pipe, photo)
    pipe.enable_model_cpu_offload("cpu")
    seen = seen_while_computing(pipe)
    assert pipe.device == CPU
    for _ in range(2):
        for image, same in zip(outputs(pipe, photo), expected, strict=True):
            assert torch.equal(image, same)
    assert seen["reasoner"] == {"reasoner"}
    assert seen["backbone"] == {"backbone"}
    assert seen["guidance"] == {"guidance", "codec"}  # It encodes boxes by the codec.


def test_weights_that_wait_on_disk_make_the_same_images(pipe, photo, tmp_path):
    expected = outputs(pipe, photo)
    weights = {name: weight.clone() for name, weight in pipe.model.state_dict().items()}
    pipe.enable_sequential_cpu_offload("cpu", folder=tmp_path / "weights")
    waiting = sum(weight.is_meta for weight in pipe.model.parameters())
    assert waiting > 0.9 * len(list(pipe.model.parameters()))
    assert any((tmp_path / "weights").rglob("*.dat"))
    for image, same in zip(outputs(pipe, photo), expected, strict=True):
        torch.testing.assert_close(image, same, atol=1e-6, rtol=0)
    pipe.save_pretrained(tmp_path / "saved")
    again = GoTPipeline.from_pretrained(tmp_path / "saved", "cpu")
    for name, weight in again.model.state_dict().items():
        assert torch.equal(weight, weights[name]), name


def test_to_ends_offloading(photo):
    pipe = pipeline(small_settings())
    expected = outputs(pipe, photo)
    for enable in (pipe.enable_model_cpu_offload, pipe.enable_sequential_cpu_offload):
        enable("cpu")
        assert pipe.to("cpu").model.execution_device is None
        assert not any(weight.is_meta for weight in pipe.model.parameters())
        for image, same in zip(outputs(pipe, photo), expected, strict=True):
            assert torch.equal(image, same)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="memory of a GPU is measured on one")
def test_a_gpu_holds_one_component_or_layer_at_a_time():
    """Of models of hundreds of megabytes, `got bench memory` measures what is predicted, in every way."""
    for found in compare_memory("unet", Request((256, 256), edit=True, tokens=60), torch.device("cuda")):
        assert abs(found.measured / found.predicted - 1) < 0.1, found


@pytest.mark.skipif(not torch.cuda.is_available(), reason="weights move between devices only where there are two")
def test_plans_of_before_are_read_again_where_weights_compute_elsewhere(photo):
    pipe = pipeline(unet_settings())
    plan = pipe.plan("a red circle")[0]
    image = pipe.generate(plan, output_type="pt").images
    pipe.enable_model_cpu_offload("cuda")
    torch.testing.assert_close(pipe.generate(plan, output_type="pt").images.cpu(), image, atol=1e-3, rtol=0)


def test_plans_of_before_are_read_again(monkeypatch):
    pipe = pipeline(small_settings())
    plan = pipe.plan(["a red circle"])[0]
    read = []
    monkeypatch.setattr(
        pipe.model, "read", lambda *arguments, read_=pipe.model.read: read.append(1) or read_(*arguments)
    )
    for change in (lambda: None, lambda: pipe.enable_model_cpu_offload("cpu"), lambda: pipe.to("cpu")):
        change()
        pipe.generate(plan)
    assert len(read) == 2


def test_a_folder_that_holds_weights_is_refused(tmp_path):
    pipe = pipeline(small_settings())
    pipe.enable_sequential_cpu_offload("cpu", folder=tmp_path / "weights")
    pipe.to("cpu")
    with pytest.raises(ValueError, match="holds something already"):
        pipe.enable_sequential_cpu_offload("cpu", folder=tmp_path / "weights")


def test_tied_weights_are_tied_when_offloading_ends(tmp_path):
    pipe = pipeline(small_settings())
    qwen = pipe.model.reasoner.qwen
    assert qwen.lm_head.weight is qwen.get_input_embeddings().weight
    count = len(list(pipe.model.parameters()))
    for folder in (None, tmp_path / "weights"):
        pipe.enable_sequential_cpu_offload("cpu", folder=folder)
        pipe.to("cpu")
        assert qwen.lm_head.weight is qwen.get_input_embeddings().weight
        assert len(list(pipe.model.parameters())) == count


def test_a_device_that_does_not_exist_and_memory_that_runs_out_leave_the_model_whole(monkeypatch, photo):
    pipe = pipeline(small_settings())
    expected = outputs(pipe, photo)
    for enable in (pipe.enable_model_cpu_offload, pipe.enable_sequential_cpu_offload):
        with pytest.raises((RuntimeError, AssertionError)):
            enable("cuda:99")
    pipe.enable_model_cpu_offload("cpu")
    pipe._offload.device = torch.device("cuda:99")
    with pytest.raises((RuntimeError, AssertionError)):
        pipe.plan("a red circle")
    assert not pipe._offload.loaded
    pipe.to("cpu")
    for image, same in zip(outputs(pipe, photo), expected, strict=True):
        assert torch.equal(image, same)


def test_a_large_image_is_decoded_in_tiles_and_a_batch_in_slices():
    torch.manual_seed(0)
    codec = AutoencoderCodec(config={**KL, "sample_size": 64})
    shapes: list[torch.Size] = []
    codec.autoencoder.decoder.register_forward_pre_hook(lambda module, arguments: shapes.append(arguments[0].shape))
    latents = torch.randn(2, 4, 16, 16)
    small = torch.randn(1, 4, 8, 8)
    whole, whole_small = codec.decode(latents), codec.decode(small)
    shapes.clear()
    codec.enable_slicing()
    sliced = codec.decode(latents)
    assert [shape[0] for shape in shapes] == [1, 1]
    torch.testing.assert_close(sliced, whole, atol=1e-5, rtol=0)
    shapes.clear()
    codec.enable_tiling()
    tiled = codec.decode(latents)
    assert tiled.shape == whole.shape
    assert all(max(shape[-2:]) <= 8 for shape in shapes)
    assert torch.equal(codec.decode(small), whole_small)


def test_a_codec_without_tiles_says_so():
    with pytest.raises(ValueError, match="PixelCodec has no tiles"):
        PixelCodec(4).enable_tiling()
    with pytest.raises(ValueError, match="PixelCodec does not divide batches"):
        pipeline(small_settings()).enable_vae_slicing()
