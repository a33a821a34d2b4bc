"""Reading other libraries' weights: the arrays come out as they went in, and no code in a file is ever run."""

from __future__ import annotations

import collections
import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from sevenloops.weights import TORCH_MAGIC, WeightsError, load_weights


def written(path: Path, content: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<i8", "|u1", "?"])
def test_numpy_arrays_come_back(tmp_path: Path, protocol: int, dtype: str) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    content = {"layer": [array, np.asfortranarray(array)], "name": "x", "size": (1, 2.5, None)}
    read = load_weights(written(tmp_path / "w.pkl", content, protocol))
    for back in read["layer"]:
        np.testing.assert_array_equal(back, array)
        assert back.flags.c_contiguous and back.dtype.newbyteorder("=").isnative
    assert read["name"] == "x" and read["size"] == (1, 2.5, None)


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


@pytest.mark.parametrize(
    "function, arguments",
    [
        (os.system, ("touch {}",)),
        (eval, ("open({!r}, 'w')",)),
        (getattr, ("x", "upper")),
        (print, ()),
        (np.load, ("{}",)),
    ],
    ids=["os.system", "eval", "getattr", "print", "numpy.load"],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_malicious_pickle_is_refused(
    tmp_path: Path, function: Callable[..., Any], arguments: tuple[str, ...], protocol: int
) -> None:
    marker = tmp_path / "marker"
    call = Calls(function, *(argument.format(str(marker)) for argument in arguments))
    with pytest.raises(WeightsError, match="which is no array"):
        load_weights(written(tmp_path / "w.pkl", {"w": call}, protocol))
    assert not marker.exists()


def test_dotted_names_do_not_reach_further(tmp_path: Path) -> None:
    path = tmp_path / "w.pkl"
    path.write_bytes(b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93.")
    with pytest.raises(WeightsError, match="which is no array"):
        load_weights(path)


def test_the_state_of_an_admitted_function_cannot_be_set(tmp_path: Path) -> None:
    path = tmp_path / "w.pkl"
    path.write_bytes(b"\x80\x02cnumpy\nndarray\n}X\x01\x00\x00\x00aK\x01sb.")
    with pytest.raises(WeightsError, match="state of a function"):
        load_weights(path)


@pytest.mark.parametrize(
    "content",
    [np.array([1, "x"], dtype=object), np.array(["text"]), np.zeros(2, [("a", "f4")]), {1, 2}, b"bytes"],
    ids=["objects", "strings", "records", "set", "bytes"],
)
def test_what_is_no_array_is_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(WeightsError):
        load_weights(written(tmp_path / "w.pkl", {"w": content}))


@pytest.mark.parametrize("cut", [0, 1, 10, 100, -1])
def test_a_damaged_file_is_an_error(tmp_path: Path, cut: int) -> None:
    path = written(tmp_path / "w.pkl", {"w": np.arange(100.0)})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(WeightsError, match=r"w\.pkl"):
        load_weights(path)


def test_a_self_containing_list_is_an_error(tmp_path: Path) -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(WeightsError, match="nested deeper"):
        load_weights(written(tmp_path / "w.pkl", endless))


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_weights(tmp_path / "none.pkl")


# ---- PyTorch's formats, written by hand so that they are tested without PyTorch ------------------------------------


class FloatStorage:
    """Pickles as `torch.FloatStorage`."""


class Storage:
    def __init__(self, key: str, size: int) -> None:
        self.identity = ("storage", FloatStorage, key, "cpu", size)


class Tensor:
    def __init__(self, storage: Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> None:
        self.arguments: tuple[Any, ...] = (storage, offset, size, stride, False, collections.OrderedDict())

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_tensor_v2, self.arguments


def _rebuild_tensor_v2() -> None:
    """Pickles as `torch._utils._rebuild_tensor_v2`."""


PythonPickler: Any = pickle._Pickler  # it lets names be changed, unlike the C one


class TorchPickler(PythonPickler):  # type: ignore[misc]
    def persistent_id(self, value: Any) -> Any:
        return value.identity if isinstance(value, Storage) else None

    def save_global(self, value: Any, name: str | None = None) -> Any:
        torch_names = {FloatStorage: "torch\nFloatStorage", _rebuild_tensor_v2: "torch._utils\n_rebuild_tensor_v2"}
        if value not in torch_names:
            return PythonPickler.save_global(self, value, name)
        self.write(b"c" + torch_names[value].encode() + b"\n")
        self.memoize(value)
        return None

    dispatch: ClassVar[Any] = {**PythonPickler.dispatch, type: save_global, type(_rebuild_tensor_v2): save_global}


def torch_pickle(content: Any) -> bytes:
    stream = io.BytesIO()
    TorchPickler(stream, 2).dump(content)
    return stream.getvalue()


VALUES = np.arange(12, dtype="<f4")


def torch_file(path: Path, tensor: Tensor, *, zipped: bool) -> Path:
    content = torch_pickle(collections.OrderedDict(w=tensor))
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("m/data.pkl", content)
            archive.writestr("m/data/7", VALUES.tobytes())
        return path
    parts = [pickle.dumps(TORCH_MAGIC, 2), pickle.dumps(1001, 2), pickle.dumps({}, 2), content, pickle.dumps(["7"], 2)]
    path.write_bytes(b"".join(parts) + struct.pack("<q", VALUES.size) + VALUES.tobytes())
    return path


@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict_is_read_without_torch(tmp_path: Path, zipped: bool) -> None:
    transposed = Tensor(Storage("7", 12), 2, (2, 3), (1, 2))
    read = load_weights(torch_file(tmp_path / "w.pth", transposed, zipped=zipped))
    np.testing.assert_array_equal(read["w"], [[2, 4, 6], [3, 5, 7]])


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "offset, size, stride",
    [(0, (4, 4), (4, 1)), (8, (5,), (1,)), (0, (2,), (12,)), (-1, (2,), (1,)), (0, (2,), (-1,)), (0, (1 << 60,), (0,))],
)
def test_a_tensor_outside_its_storage_is_refused(
    tmp_path: Path, offset: int, size: tuple[int, ...], stride: tuple[int, ...], zipped: bool
) -> None:
    tensor = Tensor(Storage("7", 12), offset, size, stride)
    with pytest.raises(WeightsError, match="tensor"):
        load_weights(torch_file(tmp_path / "w.pth", tensor, zipped=zipped))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_storage_of_another_size_is_refused(tmp_path: Path, zipped: bool) -> None:
    with pytest.raises(WeightsError, match="storage"):
        load_weights(torch_file(tmp_path / "w.pth", Tensor(Storage("7", 13), 0, (2,), (1,)), zipped=zipped))


@pytest.mark.parametrize("legacy", [True, False])
def test_files_written_by_torch_itself(tmp_path: Path, legacy: bool) -> None:
    torch = pytest.importorskip("torch")
    layer = torch.nn.Conv2d(3, 4, 3)
    path = tmp_path / "w.pth"
    torch.save(layer.state_dict(), path, _use_new_zipfile_serialization=not legacy)
    read = load_weights(path)
    assert list(read) == ["weight", "bias"]
    np.testing.assert_array_equal(read["weight"], layer.weight.detach().numpy())
