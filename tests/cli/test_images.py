"""Folders and .npz files of images; what is refused, and how it is said."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zsu_fast.class_names import ClassNames
from zsu_fast.cli.images import read_images
from zsu_fast.cli.preprocess import Preprocess

NAMES = {0: "nw", 1: "ne", 2: "sw", 3: "se"}


def test_npz_with_labels_and_names(workplace) -> None:
    found = read_images(workplace.folder / "test.npz", {})
    assert len(found) == 160 and found.names == NAMES
    assert found.labels is not None and found.labels.tolist() == workplace.labels.tolist()
    batch = found.tensor(Preprocess(), batch_size=7)
    torch.testing.assert_close(batch, torch.from_numpy(workplace.images).permute(0, 3, 1, 2) / 255.0)
    chosen = found.of_classes([1, 3])
    assert len(chosen) == 80 and set(chosen.labels.tolist()) == {1, 3}
    assert len(found.of_classes([1, 3], inside=False)) == 80


@pytest.mark.parametrize(("folder", "names"), [("by_index", {}), ("by_name", NAMES), ("by_index", NAMES)])
def test_class_folders(workplace, folder: str, names: dict[int, str]) -> None:
    found = read_images(workplace.folder / folder, names)
    assert len(found) == 32 and found.labels is not None and found.labels.bincount().tolist() == [8] * 4
    npz = read_images(workplace.folder / "probes.npz", {}).take(range(32))
    for label in range(4):
        expected = npz.of_classes([label]).tensor(Preprocess())
        torch.testing.assert_close(found.of_classes([label]).tensor(Preprocess()), expected)
    found.check_classes(4)


def test_alphabetical_folders_must_be_all_classes(workplace) -> None:
    found = read_images(workplace.folder / "by_name", {})  # ne, nw, se, sw
    assert found.names == {0: "ne", 1: "nw", 2: "se", 3: "sw"}
    found.check_classes(4)
    with pytest.raises(ValueError, match="name the folders by class index"):
        found.check_classes(10)


def test_class_folders_by_map_or_loose_names(workplace, tmp_path: Path) -> None:
    source = workplace.folder / "by_index"
    for folder, index in (("North_West", 0), ("n02", 2)):
        shutil.copytree(source / str(index), tmp_path / folder)
    mapped = read_images(tmp_path, {}, class_map={"North_West": 1, "n02": 3, "unused": 0})
    named = read_images(tmp_path, ClassNames({0: "north west", 2: "south west"}, {"n02": 2}))
    assert mapped.labels is not None and mapped.labels.bincount().tolist() == [0, 8, 0, 8]
    assert named.labels is not None and named.labels.bincount().tolist() == [8, 0, 8]
    with pytest.raises(ValueError, match="North_West is not in --class-map"):
        read_images(tmp_path, {}, class_map={"n02": 3})
    with pytest.raises(ValueError, match="are of one class, 3: North_West, n02"):
        read_images(tmp_path, {}, class_map={"North_West": 3, "n02": 3})


def test_what_systems_leave_behind_is_no_class(workplace, tmp_path: Path) -> None:
    places = [shutil.copytree(workplace.folder / "by_index" / name, tmp_path / name) for name in ("0", "2")]
    for left in (".cache", "__MACOSX", "3", "notes"):
        (tmp_path / left).mkdir()
    for hidden in (places[0] / "._0.png", tmp_path / "__MACOSX" / "a.png", tmp_path / ".b.png"):
        hidden.write_bytes(b"no image")
    found = read_images(tmp_path, NAMES)
    hidden = (tmp_path / ".cache", tmp_path / "__MACOSX")
    assert len(found) == 16 and found.ignored == (*hidden, tmp_path / "3", tmp_path / "notes")
    assert [text.partition(" is left out: ")[2] for text in found.left_out()] == ["it is hidden"] * 2 + [
        "no images are in it"
    ] * 2
    flat = read_images(places[0], {})
    assert len(flat) == 8 and flat.ignored == ()
    (places[0] / "empty").mkdir()
    assert read_images(places[0], {}).ignored == (places[0] / "empty",)
    for stray in ("a.gif", "b.npy"):
        (places[0] / stray).write_bytes(b"")
    for read, count in ((places[0], 8), (tmp_path, 16)):
        again = read_images(read, NAMES)
        assert len(again) == count and again.strays == (places[0] / "a.gif", places[0] / "b.npy")
        assert "a.gif and 1 more are left out: no image by the suffix" in again.left_out()[-1]
    # Where the alphabet alone tells, a class without images keeps its place.
    by_alphabet = shutil.copytree(workplace.folder / "by_name", tmp_path / "by_name")
    (by_alphabet / "nz").mkdir()
    assert read_images(by_alphabet, {}).labels.unique().tolist() == [0, 1, 3, 4]  # ne, nw, nz, se, sw


def test_flat_folder_has_no_labels(workplace) -> None:
    found = read_images(workplace.folder / "by_index" / "2", {})
    assert len(found) == 8 and found.labels is None


def test_shared_images_are_counted(workplace) -> None:
    probes = read_images(workplace.folder / "probes.npz", {})
    assert probes.take(range(10)).shared_with(probes.take(range(5, 50))) == 5
    assert probes.shared_with(read_images(workplace.folder / "test.npz", {})) == 0
    by_index, by_name = (read_images(workplace.folder / name, {}) for name in ("by_index", "by_name"))
    assert by_index.take([0, 9]).shared_with(by_name) == 2


def test_refusals(tmp_path: Path, workplace) -> None:
    def npz(name: str, **arrays: object) -> Path:
        np.savez(tmp_path / name, **arrays)
        return tmp_path / name

    pixels = np.zeros((3, 4, 4, 3), np.uint8)
    cases = {
        "no such file": tmp_path / "absent.npz",
        "must hold images under": npz("a.npz", pictures=pixels),
        "uint8 images": npz("b.npz", x=pixels.astype(np.float32)),
        "uint8 images of shape": npz("c.npz", x=pixels[..., :2]),
        "3 integer labels": npz("d.npz", x=pixels, y=np.zeros(2, np.int64)),
        "integer labels": npz("e.npz", x=pixels, y=np.zeros(3)),
        "holds no images": npz("f.npz", x=pixels[:0]),
        "cannot read": npz("g.npz", x=np.array([{}], dtype=object)),  # would need pickle
        "no images in": tmp_path,
    }
    (tmp_path / "h.npz").write_bytes(b"not a zip")
    for text, path in {**cases, "--probes: cannot read": tmp_path / "h.npz"}.items():
        with pytest.raises(ValueError, match=text):
            read_images(path, {}, "--probes")
    (tmp_path / "i.txt").write_text("x")
    with pytest.raises(ValueError, match="must be a folder of images or a .npz"):
        read_images(tmp_path / "i.txt", {})
    with pytest.raises(ValueError, match="by_name/ne: 'ne' is neither a class index nor a class name"):
        read_images(workplace.folder / "by_name", {0: "cat"})
    mixed = tmp_path / "mixed"
    (mixed / "a").mkdir(parents=True)
    for place in (mixed, mixed / "a"):
        Image.fromarray(pixels[0]).save(place / "one.png")
    with pytest.raises(ValueError, match="beside class folders"):
        read_images(mixed, {})
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "x.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="cannot read the image"):
        read_images(tmp_path / "broken", {}).tensor(Preprocess())
    labelled = read_images(npz("j.npz", x=pixels, y=np.array([0, 1, 9])), {})
    with pytest.raises(ValueError, match=r"labels 0..9, the model has classes 0..3"):
        labelled.check_classes(4)


def test_preprocess_by_hand() -> None:
    pixels = np.arange(2 * 2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 2, 3)
    preprocess = Preprocess(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    batch = preprocess(pixels)
    assert batch.shape == (2, 3, 2, 2) and batch.is_contiguous()
    assert float(batch[1, 2, 0, 1]) == pytest.approx((int(pixels[1, 0, 1, 2]) / 255 - 0.3) / 2.0)
    torch.testing.assert_close(preprocess.inverse(batch), torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255.0)


def test_resize_then_centre_crop() -> None:
    # Left half dark, right half bright, twice as wide as high: the crop must lie in the middle.
    image = Image.fromarray(np.repeat(np.array([[0] * 40 + [255] * 40], np.uint8), 40, 0))
    batch = Preprocess(size=(16, 16), resize=20)([image])
    assert batch.shape == (1, 1, 16, 16)
    assert float(batch[0, 0, :, :6].max()) == 0.0 and float(batch[0, 0, :, 10:].min()) == 1.0
    assert Preprocess(size=(16, 24), channels=3)([image]).shape == (1, 3, 16, 24)
    gray = Preprocess(channels=1)(np.zeros((2, 5, 5, 3), np.uint8))
    assert gray.shape == (2, 1, 5, 5)


def test_preprocess_refusals_and_options() -> None:
    with pytest.raises(ValueError, match="std must be positive"):
        Preprocess(std=(0.0,))
    with pytest.raises(ValueError, match="one length"):
        Preprocess(mean=(0.0, 0.0))
    with pytest.raises(ValueError, match="1 or 1 values"):
        Preprocess(mean=(0.0,) * 3, std=(1.0,) * 3)(np.zeros((1, 2, 2, 1), np.uint8))
    with pytest.raises(ValueError, match="give --size"):
        Preprocess()([Image.new("RGB", (4, 4)), Image.new("RGB", (4, 5))])
    changed = Preprocess(size=(224, 224), resize=256).overridden((0.5,), (0.5,), (112, 112))
    assert changed.resize == 128 and changed.mean == (0.5,)
