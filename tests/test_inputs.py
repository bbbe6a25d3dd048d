"""Strings and paths to objects: what is loaded, and what each refusal says."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from allmasks.files import atomic_path, check_writable, write_text
from allmasks.inputs import as_taken, default_loss, load_data, load_model, load_weights, named_loss, parse_numbers

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

def kind():
    return nn.Linear

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
        ("kind", TypeError, r"the factory returned the class Linear; return an instance, Linear\(…\)$"),
        ("number", TypeError, r"number must be a function that returns an nn\.Module, got int$"),
        ("absent", ValueError, r"has no name 'absent'; it defines Config, build, kind, leaves, raises, wrong$"),
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
        ("d.xlsx", b"x", r"must end in \.npz, .*\.csv or \.parquet, got d\.xlsx"),
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


@pytest.mark.parametrize("suffix", [".npz", ".pt", ".safetensors"])
def test_several_inputs_and_whole_numbers(tmp_path, suffix):
    def save(**arrays):
        file = tmp_path / f"d{suffix}"
        tensors = {name: torch.as_tensor(array) for name, array in arrays.items()}
        if suffix == ".npz":
            np.savez(file, **arrays)
        elif suffix == ".pt":
            torch.save(tensors, file)
        else:
            pytest.importorskip("safetensors.torch").save_file(tensors, file)
        return file

    ids, mask, y = np.array([[5, 2], [1, 0]]), np.ones((2, 2)), np.array([[1, -100], [0, 2]])
    x, labels = load_data(save(X=ids, y=y))
    assert (x.dtype, x.tolist(), labels.tolist()) == (torch.int64, ids.tolist(), y.tolist())
    x, _ = load_data(save(X2=mask, X10=mask + 2, X=ids, y=y))
    assert [part[0, 0].item() for part in x] == [5, 1, 3]
    x, _ = load_data(save(attention_mask=mask, input_ids=ids, y=y))
    assert {name: part.dtype for name, part in x.items()} == {
        "input_ids": torch.int64,
        "attention_mask": torch.float32,
    }
    with pytest.raises(ValueError, match=r"input_ids and y must have as many rows, got shapes \(2, 2\) and \(3,\)"):
        load_data(save(input_ids=ids, attention_mask=mask, y=np.zeros(3)))
    with pytest.raises(ValueError, match=r"has no array X, only y: save with"):
        load_data(save(y=y))


def test_a_pair_of_tensors_and_what_is_none(tmp_path):
    file = tmp_path / "d.pt"
    torch.save((torch.zeros(3, 2), torch.ones(3)), file)
    x, y = load_data(file)
    assert (x.shape, y.tolist()) == ((3, 2), [1, 1, 1])
    torch.save([1, 2, 3], file)
    with pytest.raises(ValueError, match=r"must hold tensors by name, or the pair of X and y: save with torch\.save"):
        load_data(file)
    torch.save({"X": _Runs()}, file)
    with pytest.raises(ValueError, match=r"a pickle that would run code when loaded, which is refused"):
        load_data(file)


def test_tables_with_an_index_or_with_nothing(tmp_path):
    pd = pytest.importorskip("pandas")
    file = tmp_path / "t.csv"
    for start in (0, 1, 100):
        pd.DataFrame({"a": [1.5, 2.0], "y": [0, 1]}, index=[start, start + 1]).to_csv(file)
        with pytest.raises(ValueError, match=r"the first column has no name and counts the rows, so it is an index"):
            load_data(file)
    file.write_text("a,b,y\n")
    with pytest.raises(ValueError, match=r"has a header and no rows below it"):
        load_data(file)
    file.write_text(",y\n0.5,1\n0.25,0\n")
    assert load_data(file)[0].tolist() == [[0.5], [0.25]]


def test_inputs_in_the_type_that_the_model_takes():
    ids = torch.tensor([[1, 2], [0, 3], [3, 3]])
    words = nn.Sequential(nn.Embedding(4, 2), nn.Flatten(), nn.Linear(4, 1))
    assert as_taken(words, ids) == (ids, False)
    x, cast = as_taken(nn.Linear(2, 1), ids)
    assert (x.dtype, cast) == (torch.float32, True)
    x, cast = as_taken(nn.Linear(2, 1).double(), torch.ones(3, 2))
    assert (x.dtype, cast) == (torch.float64, False)
    with pytest.raises(ValueError, match=r"inputs named x, but Linear\.forward\(input.* takes others .*or X, X2"):
        as_taken(nn.Linear(2, 1), {"x": torch.ones(3, 2)})
    assert as_taken(nn.Linear(3, 1), ids)[0].dtype == torch.int64  # it runs on neither: what is wrong is said later
    assert not any(module.training is False for module in words.modules())


def test_weights_as_wrappers_save_them(tmp_path):
    source, file = nn.Sequential(nn.Linear(3, 2)), tmp_path / "w.pt"
    for held, told in [
        ({"state_dict": source.state_dict(), "epoch": 3}, "the entry 'state_dict' was taken"),
        ({f"module.{k}": v for k, v in source.state_dict().items()}, "'module.' was stripped from the names"),
        (
            {"state_dict": {f"module._orig_mod.{k}": v for k, v in source.state_dict().items()}},
            "the entry 'state_dict' was taken and 'module._orig_mod.' was stripped from the names",
        ),
        (torch.compile(source, backend="eager").state_dict(), "'_orig_mod.' was stripped from the names"),
        ({f"0._orig_mod.{k[2:]}": v for k, v in source.state_dict().items()}, "'_orig_mod.' was stripped"),
    ]:
        torch.save(held, file)
        target = nn.Sequential(nn.Linear(3, 2))
        assert told in load_weights(target, file)
        torch.testing.assert_close(target.state_dict(), source.state_dict(), rtol=0, atol=0)
    torch.save(source.state_dict(), file)
    assert load_weights(source, file) is None


def test_losses_by_the_names_they_have_elsewhere():
    assert [named_loss(n) for n in ("MSE", "ce", "BCE-with-logits", "poisson")] == [
        "squared_error",
        "cross_entropy",
        "logistic",
        "poisson",
    ]
    for given, meant in [
        ("nll", r"cross_entropy\? It takes scores, and log-probabilities too"),
        ("bce", r"logistic\? It takes scores, not probabilities: leave the last sigmoid out"),
        ("possion", r"poisson\?$"),
    ]:
        with pytest.raises(ValueError, match=rf"--loss '{given}' is unknown: did you mean {meant}"):
            named_loss(given)
    with pytest.raises(ValueError, match=r"--loss must be one of squared_error, .*, got 'hinge_2'"):
        named_loss("hinge_2")


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
