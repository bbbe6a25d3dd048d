"""Strings and paths to objects: what is loaded, and what each refusal says."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from allmasks.files import atomic_path, check_writable, write_text
from allmasks.inputs import default_loss, load_data, load_model, load_weights, parse_numbers

MODEL = """
from dataclasses import dataclass
from torch import nn
import beside

@dataclass
class Config:
    width: int = beside.WIDTH

def build():
    return nn.Sequential(nn.Linear(3, Config().width), nn.ReLU(), nn.Dropout(0.5), nn.Linear(Config().width, 1))

def raises():
    raise RuntimeError("no weights\\nsecond line")

def leaves():
    raise SystemExit(3)

def wrong():
    return [1, 2]

number = 5
ready = nn.Linear(3, 1)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "net.py").write_text(MODEL)
    (tmp_path / "beside.py").write_text("WIDTH = 4\n")
    yield tmp_path
    sys.modules.pop("beside", None)


def test_a_factory_is_called_and_the_path_left_alone(folder):
    before = sys.path.copy()
    model = load_model(f"{folder / 'net.py'}:build")
    assert isinstance(model, nn.Sequential)
    assert model[0].weight.shape == (4, 3)
    assert sys.path == before
    assert "net" not in sys.modules
    assert isinstance(load_model(f"{folder / 'net.py'}:ready"), nn.Linear)


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("raises", ValueError, r"net\.py:raises: the factory raised RuntimeError: no weights$"),
        ("leaves", ValueError, r"the factory raised SystemExit: 3$"),
        ("wrong", TypeError, r"the factory must return an nn\.Module, it returned list$"),
        ("number", TypeError, r"number must be a function that returns an nn\.Module, got int$"),
        ("absent", ValueError, r"has no name 'absent'; it defines Config, build, leaves, raises, wrong$"),
    ],
)
def test_factories_that_are_none(folder, name, kind, text):
    with pytest.raises(kind, match=text):
        load_model(f"{folder / 'net.py'}:{name}")


def test_files_that_are_no_models(folder):
    (folder / "broken.py").write_text("def f(:\n")
    (folder / "needs.py").write_text("import a_module_that_is_not_there\n")
    (folder / "empty.py").write_text("")
    for file, kind, text in [
        ("broken.py", ValueError, r"cannot be imported: SyntaxError"),
        (
            "needs.py",
            ValueError,
            r"cannot be imported: ModuleNotFoundError: No module named 'a_module_that_is_not_there'",
        ),
        ("empty.py", ValueError, r"the file is empty"),
        ("missing.py", FileNotFoundError, r"--model .*missing\.py: no such file"),
    ]:
        with pytest.raises(kind, match=text):
            load_model(f"{folder / file}:build")
    for spec in ("net.py", "net.py:", ":build", ""):
        with pytest.raises(ValueError, match=r"--model must be FILE\.py:FACTORY"):
            load_model(spec)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_weights_arrive(tmp_path, suffix):
    source, target = nn.Linear(3, 2), nn.Linear(3, 2)
    file = tmp_path / f"w{suffix}"
    if suffix == ".safetensors":
        pytest.importorskip("safetensors.torch").save_file(source.state_dict(), file)
    else:
        torch.save(source.state_dict(), file)
    load_weights(target, file)
    torch.testing.assert_close(target.state_dict(), source.state_dict(), rtol=0, atol=0)


class _Runs:
    ran = False

    def __reduce__(self):
        return (setattr, (_Runs, "ran", True))


def test_weights_that_would_run_code_are_refused(tmp_path):
    plain, zipped = tmp_path / "plain.pt", tmp_path / "zipped.pt"
    plain.write_bytes(pickle.dumps({"weight": _Runs()}))
    torch.save({"weight": _Runs()}, zipped)
    _Runs.ran = False
    for file in (plain, zipped):
        with pytest.raises(ValueError, match=r"corrupt or a pickle that would run code when loaded, which is refused"):
            load_weights(nn.Linear(1, 1), file)
    assert not _Runs.ran


def test_weights_that_do_not_fit(tmp_path):
    file = tmp_path / "w.pt"
    torch.save({"weight": torch.zeros(2, 4), "scale": torch.zeros(1)}, file)
    model = nn.Linear(3, 2)
    before = model.weight.clone()
    with pytest.raises(
        ValueError,
        match=r"does not fit the model: missing bias; not in the model scale; "
        r"weight has shape \(2, 4\) where the model has \(2, 3\)",
    ):
        load_weights(model, file)
    assert torch.equal(model.weight, before)
    torch.save({"weight": torch.full((2, 3), torch.nan), "bias": torch.zeros(2)}, file)
    with pytest.raises(ValueError, match=r"holds NaN or infinite values in weight"):
        load_weights(model, file)
    torch.save([1, 2], file)
    with pytest.raises(ValueError, match=r"holds no state dict of tensors"):
        load_weights(model, file)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_corrupt_weights(tmp_path, suffix):
    file = tmp_path / f"w{suffix}"
    file.write_bytes(b"\x00\x01 not weights at all")
    with pytest.raises(ValueError, match=r"--weights .*(cannot be read|corrupt)"):
        load_weights(nn.Linear(1, 1), file)
    (tmp_path / "w.txt").write_text("x")
    with pytest.raises(ValueError, match=r"must end in \.safetensors, \.pt or \.pth"):
        load_weights(nn.Linear(1, 1), tmp_path / "w.txt")


def test_npz(tmp_path):
    file = tmp_path / "d.npz"
    np.savez(file, X=np.arange(6.0).reshape(3, 2), y=np.array([0, 2, 1], np.int32))
    x, y = load_data(file)
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    assert x.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert y.tolist() == [0, 2, 1]
    np.savez(file, X=np.zeros((3, 1, 2)), y=np.array([0.5, 2, 1]))
    assert load_data(file)[1].dtype == torch.float32


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ({"X": np.zeros((2, 1))}, r"has no array y, only X: save with np\.savez"),
        ({"a": np.zeros(2)}, r"has no array X and y, only a"),
        ({"X": np.zeros(2), "y": np.zeros(2)}, r"shape \(n, …\), got shape \(2,\)"),
        ({"X": np.zeros((2, 1)), "y": np.zeros(3)}, r"as many rows, got shapes \(2, 1\) and \(3,\)"),
        ({"X": np.zeros((0, 1)), "y": np.zeros(0)}, r"has no rows"),
        ({"X": np.array([[1.0], [np.nan], [np.inf]]), "y": np.zeros(3)}, r"X has 2 NaN or infinite .*first in row 1"),
        ({"X": np.array([[1e60]]), "y": np.zeros(1)}, r"X has 1 NaN or infinite"),
        ({"X": np.zeros((1, 1)), "y": np.array([np.nan])}, r"y has 1 NaN or infinite"),
        ({"X": np.array([["a"]]), "y": np.zeros(1)}, r"X must hold numbers, got dtype <U1"),
        ({"X": np.array([[None]], object), "y": np.zeros(1)}, r"holds pickled objects, .* refused"),
    ],
)
def test_npz_refusals(tmp_path, arrays, text):
    file = tmp_path / "d.npz"
    np.savez(file, **arrays)
    with pytest.raises(ValueError, match=text):
        load_data(file)


def test_files_that_are_no_data(tmp_path):
    for name, content, text in [
        ("a.npz", b"not a zip file", r"not a readable \.npz file \(corrupt, or a pickle, which is refused\)"),
        ("b.npz", b"PK\x03\x04broken", r"not a readable \.npz"),
        ("c.npz", b"", r"the file is empty"),
        ("d.xlsx", b"x", r"must end in \.npz, \.csv or \.parquet, got d\.xlsx"),
        ("e.parquet", b"not parquet", r"cannot be read"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=text):
            load_data(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"--data .*: no such file"):
        load_data(tmp_path / "none.npz")
    np.save(tmp_path / "f.npy", np.zeros(3))
    (tmp_path / "f.npy").rename(tmp_path / "f.npz")
    with pytest.raises(ValueError, match="holds a single array"):
        load_data(tmp_path / "f.npz")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tables(tmp_path, suffix):
    pd = pytest.importorskip("pandas")

    def save(**columns):
        frame = pd.DataFrame(columns)
        file = tmp_path / f"t{suffix}"
        frame.to_csv(file, index=False) if suffix == ".csv" else frame.to_parquet(file)
        return file

    x, y = load_data(save(a=[1.0, 2.0], target=[0, 1], b=[3, 4]))
    assert x.tolist() == [[1, 3], [2, 4]]
    assert (y.tolist(), y.dtype) == ([0, 1], torch.int64)
    assert load_data(save(a=[1.0], y=[0.5]))[1].tolist() == [0.5]
    for columns, text in [
        ({"a": [1], "label": [2]}, r"no label column: name one of them y or target \(columns: a, label\)"),
        ({"a": [1], "y": [2], "target": [2]}, r"two label columns"),
        ({"a": ["red"], "y": [2]}, r"columns must be numbers, these are not: a"),
        ({"y": [2]}, r"no input columns beside y"),
        ({"a": [1.0, None], "y": [2, 3]}, r"X has 1 NaN or infinite values \(the first in row 1\)"),
    ]:
        with pytest.raises(ValueError, match=text):
            load_data(save(**columns))


def test_the_loss_that_fits():
    whole, zero_one, real = torch.tensor([0, 2, 1]), torch.tensor([0.0, 1, 1]), torch.tensor([0.5, 1, 2])
    assert default_loss(torch.zeros(2, 3), whole) == "cross_entropy"
    assert default_loss(torch.zeros(2, 3), torch.tensor([0, 1, 1])) == "cross_entropy"
    assert default_loss(torch.zeros(2, 1), zero_one) == "logistic"
    assert default_loss(torch.zeros(2), zero_one.long()) == "logistic"
    assert default_loss(torch.zeros(2, 1), real) == "squared_error"
    assert default_loss(torch.zeros(2, 2), torch.rand(3, 2)) == "squared_error"
    for output, y in [(torch.zeros(2, 1), whole), (torch.zeros(2, 3), real)]:
        with pytest.raises(ValueError, match=r"the loss cannot be told .* give --loss squared_error, logistic"):
            default_loss(output, y)


def test_numbers():
    assert parse_numbers(["1", "-2,3e1"]).tolist() == [1, -2, 30]
    with pytest.raises(ValueError, match=r"--x must be numbers, got '1\.2\.3'"):
        parse_numbers("1.2.3", name="--x")


def test_files_are_whole_or_not_there(tmp_path):
    target = tmp_path / "out.txt"
    write_text(target, "old")

    def interrupted():
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
    assert check_writable(target, "--out") == target
    assert list(tmp_path.iterdir()) == [target]
    with pytest.raises(IsADirectoryError, match=r"--out .* is a folder: give a file name"):
        check_writable(tmp_path, "--out")
    with pytest.raises(FileNotFoundError, match=r"the folder .*none does not exist; create it first"):
        check_writable(tmp_path / "none" / "a", "--out")
    with pytest.raises(NotADirectoryError, match=r"is not a folder"):
        check_writable(target / "a", "--out")


def test_links_and_devices_stay_what_they_are(tmp_path):
    real, link = tmp_path / "real.txt", tmp_path / "link.txt"
    real.write_text("old")
    link.symlink_to(real)
    write_text(check_writable(link, "--out"), "new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    null = Path("/dev/null")
    if not null.is_char_device():
        pytest.skip("no /dev/null here")
    write_text(check_writable(null, "--out"), "gone")
    assert null.is_char_device()
