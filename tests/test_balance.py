"""Several losses -> one: against the formula by hand; the gradients that are watched against brute force."""

from __future__ import annotations

import math

import pytest
import torch

from perception.training.balance import Balance, gradient_norms, task_weights

PARTS = {"scene": torch.tensor([1.0, 3.0]), "drive": torch.tensor([0.5, 0.5]), "boxes": torch.tensor([4.0, 0.0])}


def test_fixed_weights() -> None:
    balance = Balance(PARTS, {"drive": 4.0}, "fixed")
    assert float(balance(PARTS)) == 2.0 + 4.0 * 0.5 + 2.0
    assert not list(balance.parameters()) and balance.to_json() == {}


def test_uncertainty_is_the_formula_and_finds_its_minimum() -> None:
    balance = Balance(PARTS, {}, "uncertainty")
    balance.restore({"scene": 0.5, "drive": -1.0, "boxes": 0.0})
    expected = (math.exp(-0.5) * 2 + 0.5 + math.exp(1.0) * 0.5 - 1.0 + 2.0 + 0.0) / 2
    assert balance(PARTS).item() == pytest.approx(expected)
    optimizer = torch.optim.SGD(balance.parameters(), 0.1)
    for _ in range(400):
        optimizer.zero_grad()
        balance(PARTS).backward()
        optimizer.step()
    for task, losses in PARTS.items():  # the derivative is 0 where exp(s) is the loss
        assert balance.to_json()[task] == pytest.approx(math.log(float(losses.mean())), abs=1e-3)


def test_learned_weights_survive_json() -> None:
    one, two = (Balance(PARTS, {}, "uncertainty") for _ in range(2))
    with torch.no_grad():
        for index, value in enumerate(one.parameters()):
            value.fill_(math.pi / (index + 3))
    two.restore(one.to_json())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_options() -> None:
    tasks = ["scene", "drive", "boxes", "boxes_one_to_one"]
    assert task_weights(["boxes=2", "drive=0"], tasks) == {"boxes": 2.0, "boxes_one_to_one": 2.0, "drive": 0.0}
    for bad in ("lanes=1", "drive", "drive=-1", "drive=much", "drive=inf"):
        with pytest.raises(ValueError, match="expected TASK=WEIGHT with TASK one of scene, drive, boxes"):
            task_weights([bad], tasks)


def test_gradient_norms_against_brute_force() -> None:
    torch.manual_seed(0)
    network = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 4), "b": torch.nn.Linear(4, 2), "c": torch.nn.Linear(2, 2)})
    network["b"](network["a"](torch.randn(5, 3))).square().sum().backward()
    found = gradient_norms(network, {"first": "a.", "second": "b.", "idle": "c."})
    assert set(found) == {"first", "second"}
    for name, part in (("first", "a"), ("second", "b")):
        together = torch.cat([p.grad.flatten() for p in network[part].parameters()])
        torch.testing.assert_close(found[name], together.norm())
