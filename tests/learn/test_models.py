"""Models: their tensors, their first parameters, and the tables that name them."""

from __future__ import annotations

import subprocess
import sys
from hashlib import sha256

import numpy as np
import pytest

from p2pfl.errors import UserError
from p2pfl.learn import models
from p2pfl.learn.datasets import load_dataset
from p2pfl.learn.numerics import pinned_torch

DIGITS, MNIST = (1, 8, 8), (1, 28, 28)


@pytest.mark.parametrize(
    ("name", "shape", "parameters"),
    [
        ("cnn", DIGITS, 19_454),
        ("cnn", MNIST, 180_734),
        ("mlp", DIGITS, 1_204_170),
        ("logistic", DIGITS, 650),
        ("logistic", MNIST, 7_850),
        ("resnet", DIGITS, 77_754),
        ("resnet", (3, 32, 32), 78_042),
    ],
)
def test_a_model_has_this_many_parameters_and_yields_logits(
    name: str, shape: models.Shape, parameters: int
) -> None:
    layout = models.layout(name, shape, 10)
    assert layout.size == parameters
    assert tuple((spec.name, spec.shape) for spec in layout.tensors) == models.tensor_spec(name, shape, 10)
    torch = pinned_torch()
    vector = models.initial_parameters(name, shape, 10, seed=1)
    tensors = [torch.tensor(part) for part in layout.unflatten(vector)]
    logits = models.architecture(name, shape, 10).forward(tensors, torch.zeros(3, *shape))
    assert tuple(logits.shape) == (3, 10)


def test_the_first_parameters_are_the_same_bits_on_every_machine() -> None:
    vector = models.initial_parameters("cnn", DIGITS, 10, seed=7)
    assert vector.dtype == np.float32
    assert (
        sha256(vector.astype("<f4").tobytes()).hexdigest()
        == "c253e629fcd4e73912508ae8a876a19e0d3f8afb0ccf1676aa64492279687ab5"
    )
    assert not np.array_equal(vector, models.initial_parameters("cnn", DIGITS, 10, seed=8))


@pytest.mark.parametrize("name", ["cnn", "mlp", "logistic", "resnet"])
def test_weights_fill_their_bound_and_biases_are_zero(name: str) -> None:
    layout = models.layout(name, DIGITS, 10)
    parts = layout.unflatten(models.initial_parameters(name, DIGITS, 10, seed=3))
    for spec, part in zip(layout.tensors, parts, strict=True):
        if len(spec.shape) == 1:
            assert (part == (1 if spec.name.endswith(".scale") else 0)).all()
            continue
        bound = (6 / np.prod(spec.shape[1:])) ** 0.5
        assert 0.9 * bound < np.abs(part).max() <= bound
        assert abs(float(part.mean())) < 4 * bound / part.size**0.5


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="cnn, logistic, mlp, resnet") as caught:
        models.tensor_spec("transformer", DIGITS, 10)
    assert "module:function" in caught.value.fix


@pytest.mark.parametrize(("name", "shape"), [("cnn", (64,)), ("cnn", (1, 1, 8)), ("resnet", (1, 3, 8))])
def test_a_model_of_convolutions_says_that_it_needs_pictures(name: str, shape: models.Shape) -> None:
    with pytest.raises(UserError, match="it needs pictures"):
        models.tensor_spec(name, shape, 10)


def test_a_users_own_model_and_data_set_are_found_by_module_and_function() -> None:
    assert models.tensor_spec("tests.learn.own:own_model", (2,), 2) == (
        ("linear.weight", (2, 2)),
        ("linear.bias", (2,)),
    )
    assert load_dataset("tests.learn.own:own_dataset").classes == 2


@pytest.mark.parametrize(
    "name", ["os:getcwd", "tests.learn.own:undecorated", "tests.learn.own:own_dataset", "no_such_module:f",
             "tests.learn.own:no_such_function", ":", "tests.learn.own:"],
)  # fmt: skip
def test_a_name_in_a_genesis_reaches_no_function_without_the_decorator(name: str) -> None:
    with pytest.raises(UserError):
        models.architecture(name, DIGITS, 10)


def test_a_name_may_be_taken_once() -> None:
    with pytest.raises(ValueError, match="is there already"):
        models.model("cnn")(models.mlp)


def test_data_and_models_do_not_import_torch() -> None:
    script = (
        "import sys; from p2pfl.learn import datasets, models, train, worker;"
        "datasets.load_dataset('digits'); models.initial_parameters('cnn', (1, 8, 8), 10, 1);"
        "print([name for name in ('torch', 'sklearn', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
