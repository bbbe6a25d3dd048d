"""What `am.verify` gives back: what was tested, what is wrong, where, and how small a fault it would have seen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from allmasks.errors import DropoutWrong
from allmasks.language import N_
from allmasks.results import Note, Reported

__all__ = ["FAULTS", "Check", "Finding", "Verification"]

FAULTS: dict[str, str] = {
    "off": N_("nothing is dropped"),
    "on_in_eval": N_("units are dropped in eval mode"),
    "rate": N_("another share of units is dropped"),
    "scale": N_("what is kept is multiplied by another factor than 1/(1 − p)"),
    "twice": N_("dropout acts twice"),
    "same_each_step": N_("masks come again at other steps"),
    "shared_by_examples": N_("examples share their masks"),
    "shared_over_time": N_("masks over time are not as declared"),
    "shared_by_units": N_("units share their masks"),
    "shared_by_sites": N_("several sites share their masks"),
    "shared_by_ranks": N_("masks of several ranks are not as declared"),
    "backward_mask": N_("backward uses another mask than forward"),
    "unexpected_site": N_("a site that is not expected"),
    "missing_site": N_("a site that is expected is not there"),
    "never_ran": N_("a site that is expected never ran"),
    "law": N_("something is wrong that none of these explains"),
}
"""Every `Finding.fault`, and what it means."""


@dataclass(frozen=True)
class Check:
    """One thing that was tested.

    Attributes
    ----------
    site : the site's name; empty for what is tested of the whole step.
    property : what was tested, such as "rate" or "mean loss".
    expected, seen : numbers or words.
    p_value : the probability of what was seen, or of more, if nothing is wrong; adjusted over all tests of the run.
    """

    site: str
    property: str
    expected: str
    seen: str
    p_value: float


@dataclass(frozen=True)
class Finding:
    """One fault.

    Attributes
    ----------
    site : the site's name; empty where the whole step is meant.
    property : what was tested, such as "rate" or "mean loss".
    expected, seen : what should have been, and what was.
    p_value : as in `Check`; 0 where there is no chance in it.
    fault : a key of `FAULTS`.
    where : module path and call.
    sentence : what was seen and what that looks like.
    """

    site: str
    property: str
    expected: str
    seen: str
    p_value: float
    fault: str
    where: str
    sentence: Note


@dataclass(frozen=True, repr=False)
class Verification(Reported):
    """Whether a training step's dropout is what it should be. See `verify`.

    Attributes
    ----------
    findings : the faults; none where all is well.
    checks : everything that was tested, each with its adjusted p-value.
    detectable : property → the smallest discrepancy that this run would have caught with probability .9: of "mean
        loss", "spread of the loss" (a share), "serial correlation", "gradient" (a share of ∇E_m[L]), "rate of …".
    level : the probability that a right step is called wrong, over all tests together, is at most this.
    passes, witnessed : training passes that gave losses, and those that were looked into.
    sites : names of the sites that the model has.
    expected_loss, expected_error : E_m[L] over all masks, and its standard error; nan where it cannot be had.
    mean_loss : mean over the passes.
    eval_mode_loss : the step's loss in eval mode.
    notes : what was left out and why, and what a reader should know.
    """

    model_name: str
    n_examples: int
    loss: str
    findings: tuple[Finding, ...]
    checks: tuple[Check, ...]
    detectable: dict[str, float]
    level: float
    passes: int
    witnessed: int
    sites: tuple[str, ...]
    expected_loss: float
    expected_error: float
    mean_loss: float
    eval_mode_loss: float
    seed: int
    seconds: float
    notes: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def raise_if_failed(self) -> None:
        """Raise `DropoutWrong`, an AssertionError with the diagnosis, if anything was found."""
        if not self.ok:
            raise DropoutWrong(self.diagnosis())

    def diagnosis(self) -> str:
        """The findings, a line each."""
        lines = [f"{f.fault}{f' at {f.where}' if f.where else ''}: {f.sentence}" for f in self.findings]
        return "\n".join([f"the dropout of {self.model_name} is not what it should be", *lines])

    def to_dict(self) -> dict[str, Any]:
        """Every field in plain numbers and strings, ready for json.dump, and `ok`."""
        return super().to_dict() | {"ok": self.ok}
