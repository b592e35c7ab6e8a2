"""Models of a world: the snapshot's rows, a fit, its calibration, the judge's word, and the reference.

What is left out of the loop's own way: the export to ONNX, and the gates on behaviour, latency, size and cost.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from monitoring.comparison import Paired
from monitoring.days import end_of, start_of
from monitoring.slices import slice_masks
from monitoring.verdict import judge
from pipelines.data import split as splits
from pipelines.models.fitting import options_of
from pipelines.models.packages import OUT_OF_SAMPLE
from pipelines.models.reference import reference_rows, trained_rows
from pipelines.scorecard.worlds import World
from pipelines.training_sections import SklearnCandidate
from serving.pictures import STATS
from training import metrics
from training.baseline import fit_baseline
from training.calibrate import fit_temperature
from training.data import Split
from training.evaluation import logits_of
from training.models import Classifier, ModelSpec
from training.shards import Mapped, Rows

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """A model, and what its fit took in seconds of CPU."""

    model: Classifier
    temperature: float
    seconds: float


@dataclass(slots=True)
class Trainer:
    """Fits models of one world, each at most once."""

    world: World
    candidate: SklearnCandidate
    golden: frozenset[str] | None = None
    _fitted: dict[tuple[datetime, date | None], Fitted] = field(default_factory=dict)

    def rows(self, as_of: datetime, drift_from: date | None = None) -> pd.Series:
        """The split of each photo that a snapshot at `as_of` takes, "" for the others; index is the world's."""
        photos, spec = self.world.photos, self.world.recipe.snapshot
        inside = photos["captured_at"] < as_of
        recent = photos["captured_at"] >= as_of - timedelta(days=spec.window_days)
        known = photos["labelled_at"] <= as_of
        if self.golden is None:
            self.golden = frozenset(splits.freeze(photos[inside & recent & known], as_of=as_of, spec=spec))
        there = photos[inside & (recent | photos["image_id"].isin(self.golden))]
        assigned = splits.assign(there, self.golden, as_of=as_of, spec=spec, drift_from=drift_from)
        return assigned[known.loc[there.index]].reindex(photos.index, fill_value="")

    def fit(self, as_of: datetime, drift_from: date | None = None) -> Fitted:
        """The candidate on what was known at `as_of`, calibrated on validation rows."""
        key = as_of, drift_from
        if key not in self._fitted:
            assigned, recipe = self.rows(as_of), self.world.recipe
            spec = ModelSpec(
                kind=self.candidate.kind,
                classes=len(recipe.taxonomy.classes),
                context=self.world.context.shape[1],
                size=recipe.image.size,
                options=options_of(self.candidate, recipe.image.size),
            )
            train, val = (self.split(np.flatnonzero(assigned == name)) for name in ("train", "val"))
            started = time.process_time()
            model = fit_baseline(
                spec,
                train,
                c=self.candidate.c,
                seed=self.candidate.seed,
                recent_weight=self.candidate.drift_weight,
                recent_since=None if drift_from is None else str(drift_from),
            )
            seconds = time.process_time() - started
            temperature = fit_temperature(logits_of(model, val, CPU)[0], val.labels)
            self._fitted[key] = Fitted(model=model, temperature=temperature, seconds=seconds)
        return self._fitted[key]

    def split(self, where: NDArray[np.integer]) -> Split:
        """The world's photos at these positions, as a training reads them."""
        world = self.world
        photos = world.photos.iloc[where]
        position = {name: number for number, name in enumerate(world.recipe.taxonomy.classes)}
        store = Mapped(world.album.images, world.recipe.image.size)
        return Split(
            images=Rows(store, photos["look"].to_numpy(), photos["photo"].to_numpy()),
            context=world.context[where],
            labels=np.asarray([position[label] for label in photos["label"]], np.int64),
            image_ids=photos["image_id"].to_numpy(str),
            source_ids=photos["source_id"].to_numpy(str),
            group_ids=photos["group_id"].to_numpy(str),
            captured_at=photos["captured_at"].dt.tz_localize(None).to_numpy("datetime64[us]"),
            stats=world.stats[where],
        )

    def answers(self, fitted: Fitted, where: NDArray[np.integer]) -> pd.DataFrame:
        """What a model says of the photos at these positions, with all that the monitor looks at."""
        rows = self.split(where)
        logits, embedding = logits_of(fitted.model, rows, CPU)
        probabilities = metrics.softmax(logits, fitted.temperature)
        classes = np.asarray(self.world.recipe.taxonomy.classes)
        frame = self.world.photos.iloc[where][
            ["image_id", "source_id", "captured_at", "label", "labelled_at"]
        ].reset_index(drop=True)
        frame["predicted"] = classes[probabilities.argmax(axis=1)]
        frame["confidence"] = probabilities.max(axis=1)
        frame["probabilities"], frame["embedding"] = list(probabilities), list(embedding)
        alone = metrics.softmax(_by_picture(fitted.model, embedding, rows.context), fitted.temperature)
        frame["picture_label"], frame["picture_probabilities"] = classes[alone.argmax(axis=1)], list(alone)
        return frame.assign(**{name: rows.stats[:, i] for i, name in enumerate(STATS)})

    def reference(self, fitted: Fitted, as_of: datetime, drift_from: date | None) -> pd.DataFrame:
        """The answers that a champion is watched against."""
        assigned = self.rows(as_of, drift_from)
        frame = self.answers(fitted, np.flatnonzero(assigned.isin(OUT_OF_SAMPLE)))
        captured = frame["captured_at"].dt.tz_localize(None).to_numpy("datetime64[us]")
        spec = self.world.recipe.monitoring
        kept = reference_rows(captured, as_of=as_of, drift_from=drift_from, spec=spec)
        return frame[kept].reset_index(drop=True)

    def trained(self, as_of: datetime, since: datetime) -> pd.DataFrame:
        """The rows that a champion was fitted on, as its reference keeps them."""
        photos, where = self.world.photos, np.flatnonzero(self.rows(as_of) == "train")
        frame = photos.iloc[where][["image_id", "source_id", "captured_at"]].reset_index(drop=True)
        frame[list(STATS)] = self.world.stats[where]
        return trained_rows(frame, since=since, stats=STATS)

    def verdict(self, contender: Fitted, champion: Fitted, as_of: datetime, drift_from: date | None) -> str:
        """The judge's, on golden and fresh rows."""
        assigned = self.rows(as_of, drift_from)
        where = np.concatenate([np.flatnonzero(assigned == name) for name in ("golden", "fresh")])
        fresh = (assigned.iloc[where] == "fresh").to_numpy()
        rows = self.split(where)
        if not len(rows):
            return "INSUFFICIENT DATA"
        said = [metrics.softmax(logits_of(m.model, rows, CPU)[0], m.temperature) for m in (contender, champion)]
        paired = Paired(labels=rows.labels, contender=said[0], opponent=said[1], senders=rows.source_ids)
        drifted = None if drift_from is None else fresh & (rows.captured_at >= np.datetime64(drift_from))
        masks = slice_masks(
            rows.labels,
            self.world.recipe.taxonomy.classes,
            rows.source_ids,
            fresh,
            numbers={"brightness": rows.stats[:, STATS.index("brightness")]},
            new_senders=self.world.defaulted[where],
        )
        return judge(
            paired,
            opponent="champion",
            fresh=fresh,
            drifted=drifted,
            changed_days=0 if drift_from is None else (as_of - start_of(drift_from)).days,
            masks=masks,
            gates=self.world.recipe.gates,
        ).ruling.verdict

    def of_day(self, number: int) -> NDArray[np.int64]:
        """Positions of the photos of a day."""
        return np.flatnonzero(self.world.photos["day"].to_numpy() == number)


def _by_picture(model: Classifier, embedding: NDArray[np.float32], context: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits [N, C] by the picture alone; a context begins with the picture's statistics."""
    about_picture = torch.arange(context.shape[1]) < len(STATS)
    with torch.inference_mode():
        found: torch.Tensor = model.by_picture(torch.tensor(embedding), torch.tensor(context), about_picture.float())
    return found.numpy()


def accuracy(trainer: Trainer, fitted: Fitted, number: int) -> float:
    """In hindsight: the share of a day's photos that a model gets right."""
    rows = trainer.split(trainer.of_day(number))
    logits, _ = logits_of(fitted.model, rows, CPU)
    return float((logits.argmax(axis=1) == rows.labels).mean())


def ends(days: Sequence[date], number: int) -> datetime:
    """When the day at a position is over."""
    return end_of(days[number])
