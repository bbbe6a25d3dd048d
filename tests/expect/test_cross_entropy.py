"""Cross-entropy in all of torch's forms, against torch's own loss averaged over every mask by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import allmasks as am
from allmasks.methods import Enumeration, MonteCarlo
from model_cases import every_thinned
from truth import every_mask


def net(classes):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Dropout(0.4), nn.Linear(5, classes)).double()


def every_output(model, x):
    """(probability, output) of each of the 2^5 masks of the one site."""
    return ((probability, under(x)) for probability, under in every_thinned(model, (5,)))


X = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
NUMBERS = torch.tensor([0, 1, 2, 1, 0, 2, 2, 1])
SOFT = torch.softmax(torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)), 1)
WEIGHT = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
IGNORED = torch.tensor([0, -100, 2, 1, 0, -100, 2, 1])

FORMS = {
    "plain": (nn.CrossEntropyLoss(), NUMBERS),
    "class weights": (nn.CrossEntropyLoss(weight=WEIGHT), NUMBERS),
    "label smoothing": (nn.CrossEntropyLoss(label_smoothing=0.2), NUMBERS),
    "weights and smoothing": (nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.2), NUMBERS),
    "ignored examples": (nn.CrossEntropyLoss(), IGNORED),
    "weights and ignored examples": (nn.CrossEntropyLoss(weight=WEIGHT, ignore_index=1), NUMBERS),
    "soft targets": (nn.CrossEntropyLoss(), SOFT),
    "soft targets and smoothing": (nn.CrossEntropyLoss(label_smoothing=0.1), SOFT),
    "soft targets and weights": (nn.CrossEntropyLoss(weight=WEIGHT), SOFT),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_mean_over_masks_of_torchs_own_mean(form):
    loss, y = FORMS[form]
    model = net(3)
    truth = sum(probability * loss(output, y) for probability, output in every_output(model, X))
    slopes = torch.autograd.grad(truth, model.parameters())
    result = am.expected_loss(model, X, y, loss)
    assert result.guarantee == "exact"
    value, truth = float(result.value.detach()), float(truth.detach())
    assert abs(value - truth) <= float(result.error) < 1e-12
    for found, slope in zip(torch.autograd.grad(result.value, model.parameters()), slopes, strict=True):
        torch.testing.assert_close(found, slope, rtol=1e-9, atol=1e-12)
    sampled = am.expected_loss(model, X, y, loss, method=MonteCarlo(n_masks=512))
    assert abs(float(sampled.value.detach()) - truth) < 4.5 * float(sampled.error)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("soft", [False, True])
def test_two_classes_by_formula_are_two_classes_by_listing(smoothing, soft):
    model, loss = net(2), nn.CrossEntropyLoss(label_smoothing=smoothing)
    # Shares that do not add up to 1, as rounded ones do not; torch takes any.
    y = torch.tensor([[1.0, 1e-7], [0.3, 0.7000001], [0.0, 1.0000001], [2.0, 1.0]] * 2) if soft else NUMBERS % 2
    by_formula = am.expected_loss(model, X, y, loss)
    listed = am.expected_loss(model, X, y, loss, method=Enumeration())
    assert type(by_formula.method).__name__ == "Fourier"
    apart = (by_formula.per_example - listed.per_example).abs()
    assert (apart <= by_formula.per_example_error + listed.per_example_error).all()
    for one, other in zip(
        torch.autograd.grad(by_formula.value, model.parameters()),
        torch.autograd.grad(listed.value, model.parameters()),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("class_last", [False, True])
def test_tokens_are_averaged_within_an_example(class_last):
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop, self.out = nn.Dropout(0.3), nn.Linear(2, 4)

        def forward(self, x):
            scores = self.out(self.drop(x))
            return scores if class_last else scores.transpose(1, 2)

    torch.manual_seed(3)
    model = Tagger().double()
    x = torch.randn(5, 3, 2, dtype=torch.float64)
    y = torch.randint(0, 4, (5, 3))
    y[0, 1:] = -100
    y[4] = -100
    truth, counted = torch.zeros(5, dtype=torch.float64), (y != -100).sum(dim=1)
    for mask, probability in zip(*map(torch.from_numpy, every_mask([0.3] * 6)), strict=True):
        scores = model.out(x * mask.reshape(3, 2) / 0.7)
        losses = F.cross_entropy(scores.transpose(1, 2), y, reduction="none").sum(dim=1)
        truth += probability * losses / counted.clamp(min=1)
    result = am.expected_loss(model, x, y, "cross_entropy")
    torch.testing.assert_close(result.per_example, truth, rtol=1e-12, atol=1e-12)
    # An example with nothing to predict has no say in the mean.
    assert float(result.value.detach()) == pytest.approx(float(truth[:4].detach().mean()), rel=1e-12)
