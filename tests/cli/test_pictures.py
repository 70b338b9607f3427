"""Image files of every depth: read in their range, or refused by name; and .npz files from anywhere."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zsu_fast.cli import npz
from zsu_fast.cli.images import read_images
from zsu_fast.cli.own_preprocess import OwnPreprocess
from zsu_fast.cli.pictures import turned_by_exif
from zsu_fast.cli.preprocess import Preprocess

RAMP = np.tile(np.linspace(0, 1, 16), (16, 1))


def read(folder: Path, channels: int | None = 1) -> torch.Tensor:
    return read_images(folder, {}, "--probes").tensor(Preprocess(channels=channels))


@pytest.mark.parametrize(
    ("array", "name", "white"),
    [
        ((RAMP * 65535).astype(np.uint16), "a.png", 65535),
        ((RAMP * 65535).astype(np.uint16), "a.tif", 65535),
        ((RAMP * 65535).astype(">u2"), "a.tif", 65535),
        ((RAMP * 4095).astype(np.uint16), "a.png", 65535),
        (RAMP.astype(np.float32), "a.tiff", 1),
        ((RAMP * 65535).astype(np.uint16), "a.pgm", 65535),
    ],
)
def test_deep_pictures_are_scaled_by_their_range(tmp_path: Path, array, name: str, white: int) -> None:
    Image.fromarray(array).save(tmp_path / name)
    for channels in (1, 3, None):
        batch = read(tmp_path, channels)
        assert batch.shape == (1, channels or 1, 16, 16) and batch.unique().numel() == 16
        expected = torch.from_numpy(array.astype(np.float64) / white).float().expand_as(batch)
        torch.testing.assert_close(batch, expected, atol=1e-6, rtol=0)


def test_fine_levels_survive_resizing_and_a_foreign_preprocessing_gets_8_bits(tmp_path: Path) -> None:
    Image.fromarray((RAMP * 65535).astype(np.uint16)).save(tmp_path / "a.png")
    images = read_images(tmp_path, {})
    batch = images.tensor(Preprocess(size=(8, 8), interpolation="bicubic"))
    assert batch.shape == (1, 1, 8, 8) and 0 <= float(batch.min()) < float(batch.max()) <= 1
    seen: list[Image.Image] = []

    def foreign(given: list[Image.Image]) -> torch.Tensor:
        seen.extend(given)
        return torch.zeros(len(given), 1)

    images.tensor(OwnPreprocess(foreign, "L"))
    assert seen[0].mode == "L" and np.abs(np.asarray(seen[0]) - RAMP * 255).max() <= 0.5


def test_eight_bits_are_what_they_were(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert torch.equal(read(tmp_path, 3)[0], torch.from_numpy(pixels).permute(2, 0, 1).float() / 255)
    Image.fromarray((RAMP * 65535).astype(np.uint16)[:6, :5]).save(tmp_path / "b.png")  # both in one batch
    assert torch.equal(read(tmp_path, 3)[0], torch.from_numpy(pixels).permute(2, 0, 1).float() / 255)


def of_mode(mode: str) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 4), dtype=np.uint8)
    return Image.fromarray(pixels).convert("RGB" if mode == "P" else mode).convert(mode)


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize(
    ("mode", "name", "settings"),
    [
        ("RGB", "a.png", {}), ("RGB", "a.bmp", {}), ("RGB", "a.webp", {}), ("RGB", "a.ppm", {}), ("RGB", "a.jpeg", {}),
        ("L", "a.jpg", {}), ("L", "a.pgm", {}), ("LA", "a.png", {}), ("1", "a.png", {}), ("1", "a.tif", {}),
        ("P", "a.png", {}), ("P", "a.png", {"transparency": 3}), ("P", "a.png", {"transparency": bytes(range(20))}),
        ("RGBA", "a.png", {}), ("RGBA", "a.tiff", {}), ("RGBA", "a.webp", {"lossless": True}),
        ("CMYK", "a.jpg", {}), ("CMYK", "a.tif", {}), ("YCbCr", "a.jpg", {}), ("P", "a.jpg", {"format": "PNG"}),
        ("P", "a.png", {"format": "GIF"}), ("RGB", "A.JPG", {"format": "PNG"}),
    ],
)  # fmt: skip
def test_as_the_loaders_of_torchvision_and_timm_do(tmp_path: Path, mode: str, name: str, settings) -> None:
    """Both open, and convert to RGB: alpha is dropped, and a suffix says nothing of the format."""
    of_mode(mode).save(tmp_path / name, **settings)
    with Image.open(tmp_path / name) as image:
        expected = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) / 255
    assert torch.equal(read(tmp_path, 3)[0], expected)


def test_exif_rotation_is_not_applied_as_the_loaders_do_not(tmp_path: Path) -> None:
    picture = of_mode("RGB")
    exif = picture.getexif()
    exif[274] = 6  # "turn by a quarter"
    picture.save(tmp_path / "a.png", exif=exif)
    assert read(tmp_path, 3).shape == (1, 3, 6, 5) and turned_by_exif(tmp_path / "a.png")
    picture.save(tmp_path / "a.png")
    assert not turned_by_exif(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["cut", "empty", "text", "animated", "array"])
def test_what_is_no_picture_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray((RAMP * 255).astype(np.uint8)).resize((200, 200)).save(path)
    if kind == "animated":
        Image.new("L", (4, 4)).save(path, "GIF", save_all=True, append_images=[Image.new("L", (4, 4), 9)])
    elif kind == "array":
        with path.open("wb") as file:
            np.save(file, RAMP)
    else:
        path.write_bytes({"cut": path.read_bytes()[:-900], "empty": b"", "text": b"no picture"}[kind])
    with pytest.raises(ValueError, match=r"cannot read the image .*a\.jpg: ."):
        read(tmp_path)
    np.save(tmp_path / "x.npy", RAMP)
    with pytest.raises(ValueError, match=r"--probes must be a folder of images or a \.npz file, got .*x\.npy"):
        read_images(tmp_path / "x.npy", {}, "--probes")


@pytest.mark.parametrize(
    ("array", "text"),
    [
        ((RAMP * 255).astype(np.float32), "mode F .*from 0 to 255"),
        ((RAMP - 0.5).astype(np.float32), "mode F"),
        ((RAMP * np.nan).astype(np.float32), "mode F"),
        ((RAMP * 1000).astype(np.int32), "mode I "),
    ],
)
def test_unknown_ranges_are_refused(tmp_path: Path, array, text: str) -> None:
    Image.fromarray(array).save(tmp_path / "a.tiff")
    with pytest.raises(ValueError, match=f"a.tiff: {text}"):
        read(tmp_path)


def test_frames_bombs_and_damage_name_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = Image.new("L", (20, 20))
    frame.save(tmp_path / "a.tif", save_all=True, append_images=[frame])
    with pytest.raises(ValueError, match=r"a.tif: it holds 2 frames"):
        read(tmp_path)
    (tmp_path / "a.tif").unlink()
    frame.save(tmp_path / "b.png")
    for pixels in (300, 100):  # between one and two times the limit Pillow warns, beyond it raises
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels)
        with pytest.raises(ValueError, match=r"b.png: Image size"):
            read(tmp_path)
    monkeypatch.undo()
    whole = (tmp_path / "b.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"b.png"):
        read(tmp_path)


def test_class_folders_that_are_no_index(tmp_path: Path) -> None:
    for names, text in ((("0", "9" * 20), "9{20} is no class index"), (("1", "01"), "are of one class")):
        place = tmp_path / names[1]
        for name in names:
            (place / name).mkdir(parents=True)
            Image.new("L", (2, 2)).save(place / name / "a.png")
        with pytest.raises(ValueError, match=f"--probes.*{text}"):
            read_images(place, {}, "--probes")


def test_damaged_npz_files_give_one_clear_error(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (50, 8, 8, 1), dtype=np.uint8)
    np.savez_compressed(tmp_path / "a.npz", x=pixels)
    whole = (tmp_path / "a.npz").read_bytes()
    refusals = []
    for at in [*range(0, 60, 3), *range(60, len(whole), 97)]:
        damaged = bytearray(whole)
        damaged[at] ^= 255
        (tmp_path / "b.npz").write_bytes(damaged)
        try:
            found = read_images(tmp_path / "b.npz", {}, "--probes")
        except ValueError as error:
            refusals.append(str(error))
        else:
            assert found.pixels is not None and np.array_equal(found.pixels, pixels)
    assert refusals and all(text.startswith("--probes") and "b.npz" in text for text in refusals)


def lying(path: Path, shape: tuple[int, ...], content: bytes = b"") -> Path:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", header.getvalue() + content)
    return path


def test_hostile_npz_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz, "UNSUSPICIOUS_BYTES", 1 << 16)
    np.savez(tmp_path / "o.npz", x=np.array([{}], dtype=object))
    np.savez(tmp_path / "l.npz", x=np.zeros((1, 2, 2), np.uint8), y=np.array([2**64 - 1], np.uint64))
    with zipfile.ZipFile(tmp_path / "m.npz", "w") as archive:
        archive.writestr("x", b"no array")
    for path, text in {
        lying(tmp_path / "a.npz", (10**12, 28, 28, 1)): "claims uint8",
        lying(tmp_path / "b.npz", (-2, -2, 1, 1), bytes(4)): "claims uint8|cannot read",
        lying(tmp_path / "c.npz", (10**6, 1, 1, 1), bytes(10**6)): "would expand from",
        lying(tmp_path / "d.npz", (10**12, 0, 0, 1)): "holds no images",
        tmp_path / "o.npz": "Python objects",
        tmp_path / "l.npz": "the label 18446744073709551615",
        tmp_path / "m.npz": "magic string",
    }.items():
        with pytest.raises(ValueError, match=f"--probes: .*{path.name}.*({text})"):
            read_images(path, {}, "--probes")
