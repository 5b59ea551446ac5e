"""Safetensors files, one tensor at a time: what the library writes is read, what is written the library reads."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.torch import load_file, save_file

from grids_ros.policy import weights
from grids_ros.policy.weights import DTYPES, LazyTensor, digest_of, finite, load_tensors, stored, write

shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
numbers = shapes.flatmap(lambda shape: arrays(np.float32, shape, elements=st.floats(-100, 100, width=32)))
tensors = st.tuples(numbers, st.sampled_from(sorted(DTYPES))).map(lambda t: torch.from_numpy(t[0]).to(DTYPES[t[1]]))


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text("abc.é", min_size=1, max_size=5), tensors, min_size=1, max_size=4))
def test_both_ways_between_us_and_the_library(tmp_path_factory, given_tensors):
    folder = tmp_path_factory.mktemp("weights")
    write(folder / "ours", {name: LazyTensor.of(tensor) for name, tensor in given_tensors.items()})
    save_file(given_tensors, folder / "theirs")
    for read in (load_file(folder / "ours"), {name: lazy.read() for name, lazy in stored(folder / "theirs").items()}):
        assert set(read) == set(given_tensors)
        for name, tensor in given_tensors.items():
            assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor)


def test_a_tensor_is_written_in_parts_whatever_its_layout(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "PART", 7)
    whole = torch.arange(60, dtype=torch.float32).reshape(12, 5).T
    write(tmp_path / "file", {"first": LazyTensor.of(torch.ones(3)), "whole": LazyTensor.of(whole)})
    assert torch.equal(stored(tmp_path / "file")["whole"].read(), whole)  # read in parts, too


def test_a_file_that_is_written_into_changes_no_tensor_that_was_read(tmp_path):
    write(tmp_path / "file", {"one": LazyTensor.of(torch.ones(10_000))})
    read = load_tensors(tmp_path / "file")["one"]
    (tmp_path / "file").write_bytes(b"")
    assert (read == 1.0).all()


def test_the_digest_is_that_of_the_tensors_bytes(tmp_path):
    one, other = torch.arange(6.0), torch.ones(3, dtype=torch.bfloat16)
    digest = write(tmp_path / "file", {"one": LazyTensor.of(one), "other": LazyTensor.of(other)})
    assert digest == digest_of(tmp_path / "file")
    assert digest == hashlib.sha256(one.numpy().tobytes() + other.view(torch.uint8).numpy().tobytes()).hexdigest()
    save_file({"one": one}, tmp_path / "theirs")
    assert digest_of(tmp_path / "theirs") is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("place", [0, 12, 24])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_number_that_is_none_is_found(dtype, place, value):
    tensor = torch.ones(5, 5, dtype=dtype)
    assert finite(tensor)
    tensor.view(-1)[place] = value
    assert not finite(tensor)
