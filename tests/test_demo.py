"""The demo net: trained once, cached, and never trusted when the cache is broken."""

import numpy as np
import pytest
import torch
from torch import nn

from allmasks import demo as room
from allmasks.demo import DigitsNet, cache_folder, demo


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ALLMASKS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def counted(monkeypatch):
    """Two epochs instead of forty, and how often training ran."""
    calls = []
    train = room._train
    monkeypatch.setattr(room, "_EPOCHS", 2)
    monkeypatch.setattr(room, "_train", lambda x, y: calls.append(len(x)) or train(x, y))
    return calls


def test_trained_once_then_cached_and_repaired(cache, counted):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, (x, y) = demo()
    assert torch.equal(torch.get_rng_state(), state)
    assert (x.shape, y.shape, x.dtype, y.dtype) == ((360, 64), (360,), torch.float32, torch.int64)
    assert 0 <= x.min() < x.max() <= 1
    assert not first.training
    assert [m.p for m in first.modules() if isinstance(m, nn.Dropout)] == [0.2, 0.5, 0.5]
    second, (again, _) = demo()
    assert counted == [1437]
    assert torch.equal(x, again)
    (file,) = cache.iterdir()

    file.write_bytes(file.read_bytes()[:1000])
    third, _ = demo()
    assert counted == [1437] * 2
    fourth, _ = demo()
    assert counted == [1437] * 2
    wrong = DigitsNet().state_dict()
    wrong["1.weight"] = torch.full((128, 64), np.nan)
    torch.save(wrong, file)
    fifth, _ = demo()
    assert counted == [1437] * 3
    for net in (second, third, fourth, fifth):
        torch.testing.assert_close(net.state_dict(), first.state_dict(), rtol=0, atol=0)
    assert [f.name for f in cache.iterdir()] == [file.name]


def test_a_cache_that_cannot_be_written_is_no_obstacle(cache, counted):
    cache.write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="the demo's weights cannot be cached"):
        net, _ = demo()
    assert isinstance(net, DigitsNet)
    assert counted == [1437]


def test_the_folder(monkeypatch):
    monkeypatch.delenv("ALLMASKS_CACHE", raising=False)
    assert cache_folder().name == "allmasks"


@pytest.mark.slow
def test_it_has_learned(cache):
    net, (x, y) = demo()
    with torch.no_grad():
        assert float((net(x).argmax(dim=1) == y).float().mean()) > 0.95
