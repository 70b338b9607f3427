"""Models by name and weights from files, none of which may execute code."""

import json
import pickle
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from zsu_fast.cli.judges import judge_of
from zsu_fast.cli.models import load_model
from zsu_fast.cli.preprocess import Preprocess
from zsu_fast.cli.relevance_run import composite_of
from zsu_fast.cli.weights import load_into, read_weights
from zsu_fast.safetensors_file import write_weights
from zsu_fast.unlearn import model_digest


@pytest.fixture
def here(workplace, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(workplace.folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return workplace.folder


@pytest.mark.parametrize("file", ["weights.safetensors", "weights.pt"])
def test_python_model_with_weights(here: Path, workplace, file: str) -> None:
    loaded = load_model("python:tinynet:build", here / file)
    assert model_digest(loaded.model) == model_digest(workplace.model)
    assert not loaded.model.training
    assert isinstance(loaded.preprocess, Preprocess) and loaded.preprocess.channels == 3
    assert loaded.metadata.get("arch") == ("tiny" if file.endswith("tensors") else None)


def test_preprocess_of_python_models(here: Path) -> None:
    mapping = load_model("python:tinynet:build_with_mapping").preprocess
    assert mapping == Preprocess(mean=(0.5,), std=(0.25,), size=(8, 8), channels=3)
    assert callable(load_model("python:tinynet:build_with_callable").preprocess)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("resnet18", "must be timm:NAME"),
        ("onnx:x", "must be timm:NAME"),
        ("timm:", "must be timm:NAME"),
        ("python:tinynet", "package.module:callable"),
        ("python:absent_module_:build", "cannot import 'absent_module_'"),
        ("python:tinynet:absent", "has no 'absent'"),
        ("python:tinynet:not_a_model", "must return a torch.nn.Module"),
        ("hf:absent", "config.json"),
    ],
)
def test_bad_specs(here: Path, spec: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        load_model(spec)


def test_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"zsu-fast\[models\]"):
        load_model("timm:resnet18")


class Evil:
    def __reduce__(self) -> object:
        return (Path.touch, (Path("was_executed"),))


def test_a_pickle_is_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Evil()}, "evil.pt")
    Path("plain.pkl").write_bytes(pickle.dumps(Evil(), protocol=2))
    for name in ("evil.pt", "plain.pkl"):
        with pytest.raises(ValueError, match="plain state dict"):
            read_weights(name)
    assert not Path("was_executed").exists()


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"1 missing \(0.bias\)"):
        load_into(model, {k: v for k, v in state.items() if k != "0.bias"}, "f")
    with pytest.raises(ValueError, match=r"1 left over \(extra\)"):
        load_into(model, state | {"extra": torch.zeros(1)}, "f")
    with pytest.raises(ValueError, match=r"0.weight is \[2, 4\] in the file and \[2, 3\] in the model"):
        load_into(model, state | {"0.weight": torch.zeros(2, 4)}, "f")
    load_into(model, {k: v for k, v in state.items() if "num_batches" not in k}, "f")
    for name, content in {"a.safetensors": b"x", "b.pt": b"", "c.pt": b"junk"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="weights"):
            read_weights(tmp_path / name)
    with pytest.raises(ValueError, match="no such file"):
        read_weights(tmp_path / "absent")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="but list"):
        read_weights(tmp_path / "list.pt")


def test_written_weights_hold_every_name(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 3)
            self.b = nn.Linear(3, 3)
            self.b.weight = self.a.weight
            self.c = nn.Conv2d(2, 2, 3).to(memory_format=torch.channels_last)

    model = Tied()
    write_weights(model.state_dict(), tmp_path / "w.safetensors", {"arch": "tied"})
    state, metadata = read_weights(tmp_path / "w.safetensors")
    assert metadata == {"arch": "tied", "format": "pt"}
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


@pytest.mark.models
def test_timm_reads_classes_off_the_weights(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("resnet10t", num_classes=7)
    torch.save({"state_dict_ema": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "w.pt")
    loaded = load_model("timm:resnet10t", tmp_path / "w.pt")
    assert model_digest(loaded.model) == model_digest(model)
    config = timm.data.resolve_model_data_config(model)
    assert isinstance(loaded.preprocess, Preprocess)
    assert loaded.preprocess.mean == config["mean"] and loaded.preprocess.size == config["input_size"][1:]
    with pytest.raises(ValueError, match="timm has no model 'resnet10x'"):
        load_model("timm:resnet10x")


@pytest.mark.models
def test_torchvision_reads_classes_off_the_weights(tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision").models
    for name in ("squeezenet1_1", "mobilenet_v3_small"):  # a classifier that is a convolution, and a linear one
        model = models.get_model(name, num_classes=7)
        torch.save(model.state_dict(), tmp_path / "w.pth")
        loaded = load_model(f"torchvision:{name}", tmp_path / "w.pth")
        assert model_digest(loaded.model) == model_digest(model)
        assert loaded.names == {} and isinstance(loaded.preprocess, Preprocess)
        assert loaded.preprocess.size == (224, 224) and loaded.preprocess.resize == 256
    with pytest.raises(ValueError, match="torchvision has no model"):
        load_model("torchvision:vgg99")


@pytest.mark.parametrize("place", ["{0}", "{0}/", ".", "./../model", "~/model"])
def test_of_a_local_path_only_the_last_part_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Results are given away: they need not say where somebody works."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").touch()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("zsu_fast.cli.models._transformers", lambda name, whole: (nn.Linear(2, 2), Preprocess(), {}))
    assert load_model(f"hf:{place.format(folder)}").spec == "hf:model"


@pytest.mark.models
def test_transformers_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=8
    )
    config.id2label = {0: "cat", 1: "dog"}
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    given = {"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3}
    given |= {"size": {"height": 16, "width": 16}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(given))
    loaded = load_model(f"hf:{tmp_path}")
    assert loaded.names == {0: "cat", 1: "dog"}
    steps = loaded.preprocess.steps
    assert steps[0] == "convert to RGB" and 'size: {"height": 16, "width": 16}' in steps and "resample: 3" in steps
    assert loaded.model(torch.zeros(1, 3, 16, 16)).logits.shape == (1, 2)
    judge = judge_of(loaded, -1.0, 1.0, "--judge")  # a generator's images, which it scales and normalises itself
    pixels = torch.randint(256, (2, 16, 16, 3), dtype=torch.uint8)
    made = pixels.permute(0, 3, 1, 2) / 127.5 - 1
    assert torch.allclose(judge(made), loaded.model(loaded.preprocess(pixels.numpy())).logits, atol=1e-5)
    assert composite_of("epsilon_gamma_box", loaded.preprocess).first.low == (-1.0,) * 3
    given["image_processor_type"] = "MobileViTImageProcessor"
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(given | {"do_flip_channel_order": True}))
    with pytest.raises(ValueError, match="--judge: brings a function"):
        judge_of(load_model(f"hf:{tmp_path}"), -1.0, 1.0, "--judge")


@pytest.mark.models
def test_a_head_is_not_drawn_at_random(tmp_path: Path) -> None:
    """A base model has no classifier, which `from_pretrained` would make up."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=8
    )
    model = transformers.ViTForImageClassification(config)
    model.save_pretrained(tmp_path)
    state, metadata = read_weights(tmp_path)
    write_weights(
        {name: v for name, v in state.items() if "classifier" not in name}, tmp_path / "model.safetensors", metadata
    )
    with pytest.raises(ValueError, match=r"holds no weights for 'classifier\.bias', 'classifier\.weight'"):
        load_model(f"hf:{tmp_path}")
    write_weights(model.state_dict(), tmp_path / "whole.safetensors")
    assert model_digest(load_model(f"hf:{tmp_path}", tmp_path / "whole.safetensors").model) == model_digest(model)


@pytest.mark.models
def test_the_result_of_a_transformers_folder_is_one(tmp_path: Path, run, workplace, monkeypatch) -> None:
    """`from_pretrained` takes it; files of the same names that are somebody else's stay."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=8, patch_size=4
    )
    config.id2label = dict(enumerate(("nw", "ne", "sw", "se")))
    torch.manual_seed(0)
    model = transformers.ViTForImageClassification(config).eval()
    before, out = tmp_path / "before", tmp_path / "out"
    batch = torch.from_numpy(workplace.images).permute(0, 3, 1, 2) / 255
    with torch.no_grad():  # a trained one without training: the classifier by least squares
        features = model.vit(batch).last_hidden_state[:, 0]
        wanted = torch.nn.functional.one_hot(torch.from_numpy(workplace.labels), 4).float()
        model.classifier.weight.copy_(torch.linalg.lstsq(features, wanted).solution.T)
    model.save_pretrained(before, max_shard_size="8KB")
    assert len(list(before.glob("model-*.safetensors"))) > 1
    (before / "preprocessor_config.json").write_text('{"do_normalize": false, "size": {"height": 8, "width": 8}}')
    monkeypatch.chdir(workplace.folder)

    def forget(*extra: object) -> tuple[object, ...]:
        return ("forget", "-t", "2", "-p", "probes.npz", "--no-report", "--budget", "4", "-o", out, *extra)

    done = run(*forget(f"hf:{before}"))
    assert done.code in (0, 4), done.err
    after = transformers.AutoModelForImageClassification.from_pretrained(out, local_files_only=True).eval()
    again = load_model(f"hf:{out}")
    with torch.no_grad():
        assert torch.equal(after(batch).logits, again.model(batch).logits)
        assert not torch.equal(after(batch).logits, model(batch).logits)
    assert again.names == config.id2label
    assert torch.equal(again.preprocess(workplace.images), load_model(f"hf:{before}").preprocess(workplace.images))
    assert len(list(out.glob("model-*.safetensors"))) > 1 and not (out / "model.safetensors").exists()
    assert run("verify", out, "--original", before).code == 0
    (out / "preprocessor_config.json").write_text("{}")
    assert "preprocessor_config.json is not the file that was written" in run("verify", out).out
    again = run(*forget("python:tinynet:build", "-w", "weights.safetensors", "--force"))
    assert again.code in (0, 4), again.err
    assert not (out / "config.json").exists() and (out / "preprocessor_config.json").read_text() == "{}"


@pytest.mark.models
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "squeezenet1_1"])
def test_torchvision_weights_of_other_classes_from_a_file_without_order(tmp_path: Path, name: str) -> None:
    models = pytest.importorskip("torchvision").models
    save_file(models.get_model(name, num_classes=7).state_dict(), tmp_path / "w.safetensors")
    loaded = load_model(f"torchvision:{name}", tmp_path / "w.safetensors")
    assert loaded.model(torch.zeros(1, 3, 64, 64)).shape == (1, 7)
