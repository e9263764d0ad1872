"""The pickles in a distributed checkpoint are read by an allow-list: fifty attacks are one line each, none runs."""

import io
import pickle
from dataclasses import replace
from enum import Enum

import pytest
import torch
from pickles import Touch
from torch.distributed import checkpoint as distributed_checkpoint
from torch.distributed.checkpoint.metadata import Metadata

from got_core.errors import UserError
from got_core.weights.checkpoints import MetadataReader, check_values, distributed_shapes, read_metadata


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    state = {
        "state_dict": {"a": torch.ones(3), "b": torch.ones(2, 2, dtype=torch.bfloat16)},
        "optimizer": {"lr": 0.1, "name": "adam"},
    }
    distributed_checkpoint.save(state, checkpoint_id=folder, no_dist=True)
    return folder


def test_torchs_own_metadata_is_read(whole):
    assert distributed_shapes(whole) == {"a": torch.Size([3]), "b": torch.Size([2, 2])}
    check_values(whole)
    weights = {"a": torch.zeros(3), "b": torch.zeros(2, 2, dtype=torch.bfloat16)}
    distributed_checkpoint.load({"state_dict": weights}, storage_reader=MetadataReader(whole), no_dist=True)
    assert torch.equal(weights["a"], torch.ones(3))
    assert torch.equal(weights["b"], torch.ones(2, 2, dtype=torch.bfloat16))


CALLED = [
    "os.system", "posix.system", "os.popen", "os.execl", "os.remove", "os.mkdir", "os.path.exists", "subprocess.run",
    "subprocess.Popen", "subprocess.check_output", "builtins.eval", "builtins.exec", "builtins.open",
    "builtins.getattr", "builtins.__import__", "builtins.compile", "builtins.print", "builtins.list", "shutil.rmtree",
    "shutil.copy", "importlib.import_module", "runpy.run_path", "pathlib.Path.write_text", "pathlib.Path.touch",
    "torch.load", "torch.save", "torch.hub.load", "torch.jit.load", "torch.classes.load_library", "torch.zeros",
    "torch.serialization.load", "torch.storage._load_from_bytes", "torch._utils._rebuild_tensor_v2",
    "torch.ops.load_library", "torch.distributed.checkpoint.filesystem.FileSystem",
    "torch.distributed.checkpoint.filesystem.os.system", "torch.distributed.checkpoint.metadata.os",
    "numpy.load", "numpy.core.multiarray._reconstruct", "pickle.loads", "marshal.loads", "types.CodeType",
    "types.FunctionType", "functools.partial", "operator.attrgetter", "socket.create_connection",
    "urllib.request.urlopen", "webbrowser.open", "ctypes.CDLL", "code.interact", "got_core.weights.files.remove",
]  # fmt: skip


def stacked(module, name, argument):
    """A pickle of protocol 4 that calls `module.name(argument)`, which may be a dotted name."""
    parts = [b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, name, argument)]
    return b"\x80\x04" + parts[0] + parts[1] + b"\x93" + parts[2] + b"\x85R."


@pytest.mark.parametrize("path", CALLED)
def test_what_is_no_metadata_is_refused_in_one_line_and_not_called(tmp_path, path):
    marker = tmp_path / "marker"
    module, _, name = path.rpartition(".")
    outer, _, inner = path.partition(".")
    for content in (
        f"c{module}\n{name}\n(Vtouch {marker}\ntR.".encode(),
        stacked(module, name, f"touch {marker}"),
        stacked(outer, inner, f"touch {marker}"),
    ):
        (tmp_path / ".metadata").write_bytes(content)
        with pytest.raises(UserError, match="not a readable checkpoint") as error:
            distributed_shapes(tmp_path)
        assert "\n" not in str(error.value)
        assert "is no part of torch's metadata" in str(error.value.__cause__)
    assert not marker.exists()


class ByGetattr(pickle.Pickler):
    """Pickles members of enumerations as Python 3.11.0 to 3.11.3 do."""

    def reducer_override(self, value):
        return (getattr, (type(value), value.name)) if isinstance(value, Enum) else NotImplemented


def by_getattr(value) -> bytes:
    content = io.BytesIO()
    ByGetattr(content).dump(value)
    assert b"getattr" in content.getvalue()
    return content.getvalue()


class Calls:
    """Pickled as a call of `getattr`."""

    def __init__(self, *arguments):
        self.arguments = arguments

    def __reduce__(self):
        return getattr, self.arguments


def test_metadata_of_older_pythons_is_read(whole, tmp_path):
    known = read_metadata(whole)
    (tmp_path / ".metadata").write_bytes(by_getattr(known))
    assert read_metadata(tmp_path) == known


@pytest.mark.parametrize(
    "arguments", [(Metadata, "__init__"), (dict, "fromkeys"), (Metadata, "state_dict_metadata", None), (1, "real")]
)
def test_nothing_else_is_looked_up(tmp_path, arguments):
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Calls(*arguments)))
    with pytest.raises(UserError, match="not a readable checkpoint") as error:
        read_metadata(tmp_path)
    assert "is no part of torch's metadata" in str(error.value.__cause__)


def changed(whole, **values):
    return pickle.dumps(replace(read_metadata(whole), **values))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda whole: b"",
        lambda whole: (whole / ".metadata").read_bytes()[:-20],
        lambda whole: pickle.dumps([]),
        lambda whole: pickle.dumps({"state_dict_metadata": {}}),
        lambda whole: pickle.dumps(torch.Size([10**11])),
        lambda whole: changed(whole, state_dict_metadata=[1]),
        lambda whole: changed(whole, state_dict_metadata=10**11),
        lambda whole: changed(whole, storage_data=7),
        lambda whole: changed(whole, storage_data={"a": 1}),
        lambda whole: b"(" * 100_000,
        lambda whole: b"]" * 100_000 + b".",
    ],
)
def test_metadata_that_is_broken_is_one_line(whole, tmp_path, spoil):
    (tmp_path / ".metadata").write_bytes(spoil(whole))
    with pytest.raises(UserError, match="not a readable checkpoint") as error:
        distributed_shapes(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", ["../elsewhere", "/etc/passwd", "a/../../b"])
def test_files_outside_the_folder_are_not_read(whole, tmp_path, path):
    data = {index: replace(stored, relative_path=path) for index, stored in read_metadata(whole).storage_data.items()}
    (tmp_path / ".metadata").write_bytes(changed(whole, storage_data=data))
    with pytest.raises(UserError, match="not a readable checkpoint"):
        distributed_shapes(tmp_path)


def test_values_that_are_no_tensors_are_not_unpickled(tmp_path):
    marker, folder = tmp_path / "marker", tmp_path / "checkpoint"
    state = {"state_dict": {"a": torch.ones(3)}, "optimizer": {"lr": Touch(marker)}}
    distributed_checkpoint.save(state, checkpoint_id=folder, no_dist=True)
    with pytest.raises(UserError, match="not a readable checkpoint"):
        check_values(folder)
    assert not marker.exists()
