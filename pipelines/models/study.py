"""What a search asks next: Optuna over the trials there have been.

A study lives for one trial. It is made anew from the trials that MLflow has, with a seed of its own, so that a search
that was killed asks what an unbroken one asks. Optuna keeps nothing: there is one record of a trial.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from pipelines.models.trials import Tried
from pipelines.search_sections import Search, Span
from pipelines.training_sections import Candidate

ENOUGH = 4
"""Complete trials from which on it is said which field mattered."""

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Study:
    """The next trial of a search, and the ones before it."""

    def __init__(
        self, candidate: Candidate, search: Search, tried: Sequence[Tried], *, number: int, epochs: int
    ) -> None:
        """Nothing is asked yet.

        Args:
            candidate: the recipe's own; its values are what the first trial tries, as far as they lie in the space.
            tried: the finished trials.
            number: of the next one.
            epochs: of a trial.
        """
        self._candidate, self._number, self._epochs = candidate, number, epochs
        self._spans = search.space[candidate.name]
        self._distributions = {field: _distribution(candidate, field, span) for field, span in self._spans.items()}
        self._prune = search.prune
        seed = int(np.random.SeedSequence((search.seed, number)).generate_state(1)[0])
        self._study = optuna.create_study(
            direction="minimize",
            # A third of the trials looks around before Optuna believes what it saw.
            sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=min(10, max(2, search.trials // 3))),
            pruner=optuna.pruners.MedianPruner(
                n_startup_trials=min(5, max(1, search.trials // 4)), n_warmup_steps=epochs // 4
            ),
        )
        for one in tried:
            self._study.add_trial(self._remembered(one))

    def ask(self, underway: Tried | None = None) -> dict[str, Any]:
        """Values for the next trial: those of one that was killed under way, else what Optuna suggests."""
        if underway is not None:
            self._study.enqueue_trial(self._coded(underway.values))
        elif self._number == 0:
            own = {field: getattr(self._candidate, field) for field in self._spans}
            self._study.enqueue_trial(
                self._coded({field: value for field, value in own.items() if self._spans[field].holds(value)})
            )
        self._trial = self._study.ask(self._distributions)
        for epoch, loss in (underway.losses if underway is not None else {}).items():
            self._trial.report(loss, epoch)
        return {
            field: json.loads(value) if self._spans[field].choices else value
            for field, value in self._trial.params.items()
        }

    def gives_up(self, epoch: int, loss: float) -> bool:
        """Whether the trial should end, after an epoch's validation loss; never at its last one."""
        if epoch not in self._trial.study.trials[-1].intermediate_values:
            self._trial.report(loss, epoch)
        return self._prune and epoch < self._epochs and self._trial.should_prune()

    def importances(self) -> dict[str, float]:
        """Field → its share in how good a trial was; nothing while there are too few to tell."""
        if len(self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) < ENOUGH:
            return {}
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", UserWarning)
            found = optuna.importance.get_param_importances(self._study)
        # It warns where the trials are so alike that its shares are made up.
        return {} if any(issubclass(warning.category, UserWarning) for warning in said) else found

    def _coded(self, values: Mapping[str, Any]) -> dict[str, Any]:
        spans = self._spans
        return {
            field: json.dumps(spans[field].choice(value)) if spans[field].choices else value
            for field, value in values.items()
        }

    def _remembered(self, one: Tried) -> FrozenTrial:
        given: dict[str, Any] = {"params": self._coded(one.values), "distributions": self._distributions}
        if one.state == "complete":
            return create_trial(state=TrialState.COMPLETE, value=one.loss, intermediate_values=one.losses, **given)
        # Optuna forgets failed trials, and would ask for the same impossible values again: to it they are the worst
        # of those that were given up, which is what a pruned trial without an epoch is.
        losses = one.losses if one.state == "pruned" else {}
        return create_trial(state=TrialState.PRUNED, intermediate_values=losses, **given)


def _distribution(candidate: Candidate, field: str, span: Span) -> BaseDistribution:
    if span.choices:
        # As text: a choice may be a list, and Optuna knows plain values only.
        return CategoricalDistribution([json.dumps(value) for value in span.choices])
    low, high = float(span.low or 0), float(span.high or 0)
    if isinstance(getattr(candidate, field), int):
        return IntDistribution(int(low), int(high), log=span.log, step=int(span.step or 1))
    return FloatDistribution(low, high, log=span.log, step=span.step)
