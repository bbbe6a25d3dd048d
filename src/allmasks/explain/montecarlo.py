"""The mean over K masks against the exact mean over all 2^d, and the survey it is like."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from allmasks.explain.moments import mask_probabilities
from allmasks.explain.page import Page, Picture, Series, Topic, number
from allmasks.language import N_, Translate
from allmasks.masks import MaskLaw, check_p
from allmasks.samplers import Independent, Sampler

__all__ = ["Check", "MonteCarloStudy", "Point", "Survey", "montecarlo"]

MAX_MASKS = 4096
_SITE = 1

LOSSES = {"logistic": N_("logistic"), "squared_error": N_("squared error")}


@dataclass(frozen=True)
class Point:
    """One K: the first replicate's K-mask mean, the observed RMS error of such means, and sd / √K."""

    n_masks: int
    first_mean: float
    observed_error: float
    predicted_error: float


@dataclass(frozen=True)
class Check:
    """The same example cut to its first few features, where every mask can be listed."""

    n_features: int
    n_masks: int
    exact: float
    error: float
    enumerated: float


@dataclass(frozen=True)
class Survey:
    """Surveys of a made-up log-normal population: true mean, one survey's mean, RMS error of many, and σ / √n."""

    population: int
    surveyed: int
    n_surveys: int
    true_mean: float
    first_mean: float
    observed_error: float
    predicted_error: float

    def told(self, _: Translate) -> list[str]:
        """What the surveys say, in lines."""
        return [
            _(
                "It is a survey. To know the mean income of a country nobody asks everyone: asking {n} at random will "
                "do."
            ).format(n=self.surveyed),
            _("A made-up population of {n} log-normal incomes has mean {mean}.").format(
                n=f"{self.population:,}", mean=f"{self.true_mean:,.0f}"
            ),
            _(
                "One survey of {n} says {first}; {surveys} surveys miss by {observed} (RMS); σ/√n says {predicted}."
            ).format(
                n=self.surveyed,
                first=f"{self.first_mean:,.0f}",
                surveys=self.n_surveys,
                observed=f"{self.observed_error:,.0f}",
                predicted=f"{self.predicted_error:,.0f}",
            ),
        ]


@dataclass(frozen=True, repr=False)
class MonteCarloStudy(Topic):
    """E_m[L] of one example of a linear model with `n_features` dropped inputs: exact, and by K masks.

    `slope` : of log observed error against log K over K = 4 …; -1/2 by the law.
    `sd` : standard deviation of the loss over masks, estimated from all masks drawn.
    `grand_mean` ± `grand_error` : the mean over all masks drawn, with its standard error.
    """

    loss: str
    n_features: int
    p: float
    seed: int
    exact: float
    exact_error: float
    guarantee: str
    method: str
    replicates: int
    sd: float
    grand_mean: float
    grand_error: float
    points: tuple[Point, ...]
    slope: float
    years_to_list: float
    check: Check
    survey: Survey

    def _page(self, _: Translate) -> Page:
        page = Page(_("The mean over K random masks, against the mean over all of them")).say(
            _("One example of a linear model with {n} inputs, each dropped with p = {p}; {loss} loss.").format(
                n=self.n_features, p=number(self.p), loss=_(LOSSES[self.loss])
            ),
            _("2^{n} = {masks} masks: a machine that runs 10⁹ a second would list them in {years} years.").format(
                n=self.n_features, masks=f"{2.0**self.n_features:.3g}", years=f"{self.years_to_list:.2g}"
            ),
            _("Yet the mean over all of them is known: {exact} ± {error} ({guarantee}, by {method}).").format(
                exact=f"{self.exact:.15g}",
                error=f"{self.exact_error:.1g}",
                guarantee=_(self.guarantee),
                method=self.method,
            ),
            _(
                "Listing is not the only way: the score is a sum of independent terms, so its characteristic function "
                "is a product of {n} factors, and the expectation needs only that (squared, Poisson and exponential "
                "losses: a formula)."
            ).format(n=self.n_features),
        )
        check = self.check
        page.say(
            _("Cut to the first {n} inputs, all {masks} masks can be listed:").format(
                n=check.n_features, masks=check.n_masks
            ),
            "    "
            + _("exact {exact}    listed {listed}    difference {difference}").format(
                exact=f"{check.exact:.15g}",
                listed=f"{check.enumerated:.15g}",
                difference=f"{abs(check.exact - check.enumerated):.1g}",
            ),
        )
        self._errors(page, _)
        return page.say(*self._together(_)).say(*self.survey.told(_))

    def _errors(self, page: Page, _: Translate) -> None:
        k = [point.n_masks for point in self.points]
        page.draw(
            Picture(
                _("The error falls as 1/√K"),
                _("K masks"),
                _("RMS error"),
                [
                    Series("sd / √K", "line", k, [point.predicted_error for point in self.points]),
                    Series(_("RMS error observed"), "points", k, [point.observed_error for point in self.points]),
                ],
                logarithmic=True,
            )
        )
        page.table(
            [_("K masks"), _("their mean"), _("its error"), _("RMS error observed"), "sd / √K"],
            [
                [
                    str(point.n_masks),
                    f"{point.first_mean:.6f}",
                    f"{point.first_mean - self.exact:+.2g}",
                    f"{point.observed_error:.3g}",
                    f"{point.predicted_error:.3g}",
                ]
                for point in self.points
            ],
            title=_("Independent masks; RMS over {n} replicates").format(n=self.replicates),
        )

    def _together(self, _: Translate) -> list[str]:
        away = (self.grand_mean - self.exact) / self.grand_error
        return [
            _("All {n} masks together: {mean} ± {error}, {away} standard errors from the exact value.").format(
                n=self.replicates * MAX_MASKS,
                mean=f"{self.grand_mean:.6f}",
                error=f"{self.grand_error:.1g}",
                away=f"{abs(away):.1f}",
            ),
            _(
                "The error falls as K^{slope} (law: K^-0.5): four times the masks halve it. Training takes K = 1 at "
                "each step, a noisy value whose mean over steps is right."
            ).format(slope=f"{self.slope:.3f}"),
        ]


@cache
def _survey(seed: int, population: int = 200_000, surveyed: int = 1000, n_surveys: int = 400) -> Survey:
    rng = np.random.default_rng(seed)
    incomes = rng.lognormal(math.log(30_000), 0.7, population)
    means = incomes[rng.integers(population, size=(n_surveys, surveyed))].mean(axis=1)
    truth = float(incomes.mean())
    return Survey(
        population=population,
        surveyed=surveyed,
        n_surveys=n_surveys,
        true_mean=truth,
        first_mean=float(means[0]),
        observed_error=float(np.sqrt(np.mean((means - truth) ** 2))),
        predicted_error=float(incomes.std() / math.sqrt(surveyed)),
    )


def _losses(loss: str, scores: NDArray[np.float64], y: float) -> NDArray[np.float64]:
    return np.logaddexp(0, scores) - y * scores if loss == "logistic" else (scores - y) ** 2


def montecarlo(
    n_features: int = 100,
    p: float = 0.5,
    *,
    loss: str = "logistic",
    replicates: int = 64,
    seed: int = 0,
    sampler: Sampler | None = None,
) -> MonteCarloStudy:
    """The K-mask mean, K = 1, 2, 4, … 4096, of one example's loss against its exact mean over all 2^d masks.

    Parameters
    ----------
    n_features : inputs that are dropped, 1 … 1000; weights and inputs are drawn from `seed`.
    p : drop rate in (0, 1).
    loss : "logistic" or "squared_error".
    replicates : independent runs of 4096 masks behind the observed error, 2 … 1024.
    seed : 0 … 2**64 - 1.
    sampler : how masks are drawn together; None: independently. `predicted_error` is that of independent ones.

    Raises
    ------
    ValueError : an argument outside its range.

    >>> study = montecarlo(20, replicates=8)
    >>> study.points[-1].n_masks, study.points[-1].observed_error < study.points[0].observed_error
    (4096, True)
    """
    if not 1 <= n_features <= 1000:
        raise ValueError(f"the number of inputs must lie in 1 … 1000, got {n_features}")
    if not 2 <= replicates <= 1024:
        raise ValueError(f"replicates must lie in 2 … 1024, got {replicates}")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must lie in 0 … 2**64 - 1, got {seed}")
    if loss not in LOSSES:
        raise ValueError(f'loss must be "logistic" or "squared_error", got {loss!r}')
    rate = float(check_p(p))
    if rate == 0:
        raise ValueError("p = 0 drops nothing, so there is no error to study: give p between 0 and 1")
    from allmasks.dropped_scores import expected_score_loss

    rng = np.random.default_rng(seed)
    weights = rng.normal(size=n_features) * 2 / math.sqrt(n_features)
    inputs, y = rng.normal(size=n_features), 1.0
    found = expected_score_loss(weights, inputs[None], np.array([y]), rate, loss=loss)
    exact = float(found.value)

    law = MaskLaw(rate, (n_features,))
    terms = weights * inputs / law.keep_prob
    losses = np.empty((replicates, MAX_MASKS))
    step = max(1, 2**24 // (replicates * n_features))
    for start in range(0, MAX_MASKS, step):
        stop = min(start + step, MAX_MASKS)
        # The example index numbers the replicates: bits of different examples are independent.
        masks = (sampler or Independent()).draw(
            seed, _SITE, np.arange(start, stop), np.arange(replicates), law.keep_prob
        )
        losses[:, start:stop] = _losses(loss, masks @ terms, y).T
    sd = float(losses.std())
    sizes = 2 ** np.arange(int(math.log2(MAX_MASKS)) + 1)
    # All masks serve at every K: MAX_MASKS / K means a replicate, not one.
    observed = [float(np.sqrt(np.mean((losses.reshape(-1, k).mean(axis=1) - exact) ** 2))) for k in sizes]
    points = tuple(
        Point(int(k), float(losses[0, :k].mean()), error, sd / math.sqrt(k))
        for k, error in zip(sizes, observed, strict=True)
    )
    slope = float(np.polyfit(np.log(sizes), np.log(observed), 1)[0])

    few = min(n_features, 12)
    small = MaskLaw(rate, (few,))
    listed = small.enumerate()
    enumerated = mask_probabilities(small, listed) @ _losses(loss, small.noise(listed) @ (weights * inputs)[:few], y)
    cut = expected_score_loss(weights[:few], inputs[None, :few], np.array([y]), rate, loss=loss, method=found.method)
    return MonteCarloStudy(
        loss=loss,
        n_features=n_features,
        p=rate,
        seed=seed,
        exact=exact,
        exact_error=float(found.error),
        guarantee=found.guarantee,
        method=found.method.name,
        replicates=replicates,
        sd=sd,
        grand_mean=float(losses.mean()),
        grand_error=sd / math.sqrt(losses.size),
        points=points,
        slope=slope,
        years_to_list=2.0**n_features / 1e9 / (365.25 * 86400),
        check=Check(few, small.n_masks, float(cut.value), float(cut.error), float(enumerated)),
        survey=_survey(seed),
    )
