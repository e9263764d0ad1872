import pytest

from got_core.paths import ROOT, find_checkpoint, locate


def test_a_path_is_looked_up_from_the_working_directory_first(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    assert locate("pyproject.toml") == "pyproject.toml"
    assert locate(str(tmp_path / "pyproject.toml")) == str(tmp_path / "pyproject.toml")


def test_then_beside_the_installed_packages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert locate("got_core/paths.py") == str(ROOT / "got_core" / "paths.py")


def test_what_reads_like_a_hub_id_is_left_alone():
    assert locate("Qwen/Qwen2.5-VL-3B-Instruct") == "Qwen/Qwen2.5-VL-3B-Instruct"


@pytest.mark.parametrize("path", ["nowhere.json", "org/nowhere.json", "recipes/nowhere", "a/b/c", "/nowhere/at/all"])
def test_a_missing_file_is_named(path):
    with pytest.raises(FileNotFoundError, match=path):
        locate(path)


def make_run(folder):
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.ckpt").write_bytes(b"")
    (folder / "config.yaml").write_text("")


def test_a_run_is_found_by_its_folder_or_its_checkpoint(tmp_path):
    make_run(tmp_path / "run")
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    for path in (tmp_path / "run", last):
        run, checkpoint = find_checkpoint(path)
        assert run.folder == tmp_path / "run"
        assert checkpoint == last


def test_an_imported_folder_is_found_by_itself_or_its_weights(tmp_path):
    for name in ("model.safetensors", "config.yaml"):
        (tmp_path / name).write_text("")
    for path in (tmp_path, tmp_path / "model.safetensors"):
        run, checkpoint = find_checkpoint(path)
        assert run.folder == tmp_path
        assert checkpoint == tmp_path / "model.safetensors"


def test_a_runs_own_checkpoint_comes_first(tmp_path):
    make_run(tmp_path)
    (tmp_path / "model.safetensors").write_text("")
    assert find_checkpoint(tmp_path)[1] == tmp_path / "checkpoints" / "last.ckpt"


@pytest.mark.parametrize(
    ("missing", "words"), [("checkpoints/last.ckpt", "no checkpoint"), ("config.yaml", "no recipe"), (None, "no such")]
)
def test_what_a_run_lacks_is_named(tmp_path, missing, words):
    folder = tmp_path / "run"
    if missing:
        make_run(folder)
        (folder / missing).unlink()
    with pytest.raises(FileNotFoundError, match=words):
        find_checkpoint(folder)
