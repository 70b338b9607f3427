"""Undo files on the Hub: nobody's but the owner's unless said. The Hub itself is played by a folder."""

import shutil
from types import SimpleNamespace

import pytest
import torch

from zsu_fast.unlearn import Patch, Picks, forget, model_digest, perturb_

hub = pytest.importorskip("huggingface_hub")


class FolderHub:
    """As much of `HfApi` as is used: repositories are folders of `root`, each private or not."""

    def __init__(self, root):
        self.root, self.private, self.log = root, {}, []

    def __call__(self, token=None):
        self.token = token
        return self

    def create_repo(self, repo_id, *, repo_type, private, exist_ok):
        self.log.append("create")
        assert repo_type == "model" and exist_ok
        self.private.setdefault(repo_id, private)
        return SimpleNamespace(repo_id=repo_id)

    def repo_info(self, repo_id, *, repo_type):
        return SimpleNamespace(private=self.private[repo_id])

    def upload_folder(self, *, repo_id, repo_type, folder_path, revision, commit_message):
        self.log.append("upload")
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)
        return SimpleNamespace(commit_url=f"https://hub.test/{repo_id}/commit/1")


@pytest.fixture
def played(tmp_path, monkeypatch):
    played = FolderHub(tmp_path)
    monkeypatch.setattr(hub, "HfApi", played)
    monkeypatch.setattr(hub, "hf_hub_download", lambda repo, name, **_: str(tmp_path / repo / name))
    return played


def test_there_and_back(conv_net, digits, played):
    before = model_digest(conv_net)
    probes, judge, _, _ = digits.split(3)
    result = forget(conv_net, 3, probes, evaluate_on=(judge, torch.full((len(judge),), 3)))
    assert result.patch.push_to_hub("ada/undo", model="digits", token="t") == "https://hub.test/ada/undo/commit/1"
    assert played.private == {"ada/undo": True} and played.token == "t"
    card = (played.root / "ada" / "undo" / "README.md").read_text()
    assert card.startswith("---\npipeline_tag: image-classification\ntags:\n- machine-unlearning")
    assert (
        "\n---\n\n> This repository holds an undo file" in card and "answers forgotten" in card and "\ndigits\n" in card
    )
    assert "the classifier's input" in card
    found = Patch.from_pretrained("ada/undo")
    assert found.record == result.record and found.key == result.patch.key
    found.revert(conv_net)
    assert model_digest(conv_net) == before
    assert Patch.from_pretrained(played.root / "ada" / "undo").digests == found.digests


def test_nothing_becomes_public_unless_it_is_meant(conv_net, played):
    patch = perturb_(conv_net, Picks(edges={2: [1, 5]}), sample=torch.rand(1, 1, 8, 8))
    with pytest.raises(ValueError, match="private: an undo file has back what was forgotten"):
        patch.push_to_hub("ada/undo", private=False)
    assert played.log == []
    played.private["ada/old"] = False
    with pytest.raises(ValueError, match="ada/old is public, .* nothing was uploaded"):
        patch.push_to_hub("ada/old")
    assert played.log == ["create"]
    patch.push_to_hub("ada/old", allow_public=True)
    patch.push_to_hub("ada/new", private=False, allow_public=True)
    assert played.private == {"ada/old": False, "ada/new": False}
    assert "> This repository holds an undo file" in (played.root / "ada" / "new" / "README.md").read_text()


def test_what_is_no_source_is_refused(tmp_path, played, conv_net):
    with pytest.raises(FileNotFoundError, match="no patch file"):
        Patch.from_pretrained(tmp_path)
    for source in ("./absent", "a/b/c", tmp_path / "absent"):
        with pytest.raises(FileNotFoundError, match="source: no such folder or file"):
            Patch.from_pretrained(source)
    with pytest.raises(TypeError, match="source: expected a folder or OWNER/NAME, got int"):
        Patch.from_pretrained(3)
    patch = perturb_(conv_net, Picks(edges={2: [1]}), sample=torch.rand(1, 1, 8, 8))
    with pytest.raises(ValueError, match="repo_id: expected the name of a repository"):
        patch.push_to_hub(" ")
