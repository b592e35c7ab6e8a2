"""The parts of a recipe: each field with its default, bounds and a docstring. The whole is `pipelines/recipe.py`."""

from datetime import date, timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """Base of every part of a recipe: frozen, and closed to unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


# ---------------------------------------------------------------------------------------------- source


class DigitsSource(Section):
    """scikit-learn's 1,797 handwritten digits, with made-up senders. Needs no network."""

    kind: Literal["digits"]
    records: int = Field(default=3600, ge=10, le=1_000_000)
    """How many photos to make; past 1,797 they are seeded small changes of the same digits."""
    senders: int = Field(default=40, ge=2, le=10_000)
    """Made-up senders, each with a taste for some classes. Copies stay with their digit's sender."""
    taste: float = Field(default=0.5, gt=0)
    """Dirichlet concentration of a sender's classes: small is picky, large is indifferent."""
    seed: int = 7


class TorchvisionSource(Section):
    """Any of torchvision's classification datasets."""

    kind: Literal["torchvision"]
    dataset: str
    """Class name in `torchvision.datasets`, such as `CIFAR10`."""
    root: str = "var/torchvision"
    """Folder of the download."""
    options: dict[str, str | int | float | bool] = {}
    """Keyword arguments of the dataset, such as `train = true` or `split = "train"`."""
    download: bool = False
    """Fetch it when it is not there."""
    limit: int = Field(default=0, ge=0)
    """Take only the first so many records; 0 takes all."""


class FolderSource(Section):
    """A folder with one sub-folder a class."""

    kind: Literal["folder"]
    path: str
    """Folder or fsspec URI. `PATH/CLASS/photo.jpg`."""
    sender_pattern: str = ""
    r"""Regular expression with one group, searched in the file name, such as `^(\d+)_`; empty: one sender a file."""


class ManifestSource(Section):
    """A table with a row a photo: CSV, Parquet or JSON lines, told by its ending."""

    kind: Literal["manifest"]
    path: str
    """The table: a path or fsspec URI."""
    base: str = ""
    """Prefix of relative image paths; default: the table's folder."""
    suffix: str = ""
    """Appended to each image path, such as `.jpg`."""
    image: str = "image"
    """Column with a path or URL."""
    label: str = "label"
    """Column with the class; may be empty for photos without a label."""
    sender: str = ""
    """Column with the sender; empty: every photo is its own sender."""
    captured_at: str = ""
    """Column with the time of the photo (ISO 8601, UTC); empty: replayed."""
    labelled_at: str = ""
    """Column with the time of the label; empty: replayed, or the photo's own time."""
    attributes: tuple[str, ...] = ()
    """More columns that go along with each photo, as text: to slice by, such as the phone."""


class SqlSource(Section):
    """A SQLAlchemy query that gives the manifest's columns."""

    kind: Literal["sql"]
    url_env: str = "CLASSY_SOURCE_URL"
    """Name of the environment variable with the database URL, which is a secret and not a recipe's."""
    query: str
    """A SELECT. Its columns are named below."""
    base: str = ""
    image: str = "image"
    label: str = "label"
    sender: str = ""
    captured_at: str = ""
    labelled_at: str = ""
    attributes: tuple[str, ...] = ()


Source = Annotated[
    DigitsSource | TorchvisionSource | FolderSource | ManifestSource | SqlSource, Field(discriminator="kind")
]


class Replay(Section):
    """The calendar for a source without times. Seeded: the same recipe gives the same days."""

    start: date = date(2026, 3, 1)
    days: int = Field(default=18, ge=2, le=3650)
    """Photos are spread evenly over these days."""
    seed: int = 7
    label_delay_days: tuple[float, float] = (0.5, 1.5)
    """Each label comes after a time drawn uniformly from this range."""
    label_share: float = Field(default=1.0, gt=0, le=1)
    """Share of photos that ever get a label."""

    @property
    def end(self) -> date:
        """First day after the last."""
        return self.start + timedelta(days=self.days)


class Scenario(Section):
    """A change of the world from a date on, so that drift is something we made and know."""

    kind: Literal[
        "darker", "blurred", "rotated", "inverted", "cropped", "jpeg", "new_senders", "class_mix", "label_noise",
        "new_class",
    ]  # fmt: skip
    from_: date = Field(alias="from")
    """First day of the changed world."""
    until: date | None = None
    """First day that is normal again; none: it stays changed."""
    amount: float = 1.0
    """darker: share of light taken (0..1). blurred: radius in pixels. rotated: degrees. cropped: share cut
    away. jpeg: quality (1..95). label_noise, new_senders: share of records. class_mix: exponent of the skew."""
    label: str = ""
    """new_class: the class that was not seen before that day."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, populate_by_name=True)

    @model_validator(mode="after")
    def _ranges(self) -> "Scenario":
        shares = {"darker", "cropped", "new_senders", "label_noise"}
        if self.kind in shares and not 0 < self.amount <= 1:
            raise ValueError(f"amount={self.amount}: {self.kind} takes a share, 0 < amount <= 1")
        if self.kind == "jpeg" and not 1 <= self.amount <= 95:
            raise ValueError(f"amount={self.amount}: jpeg takes a quality, 1 to 95")
        if self.kind == "new_class" and not self.label:
            raise ValueError("label is missing: new_class needs the class that appears")
        return self


# ----------------------------------------------------------------------------------- what a photo may be


class Taxonomy(Section):
    """The classes, in the order of the model's outputs."""

    classes: tuple[str, ...] = Field(min_length=2)
    aliases: dict[str, str] = {}
    """Other spellings that are taken as a class."""

    @model_validator(mode="after")
    def _sane(self) -> "Taxonomy":
        doubled = sorted({name for name in self.classes if self.classes.count(name) > 1})
        if doubled:
            raise ValueError(f"classes: {', '.join(doubled)} is listed twice")
        lost = {alias: name for alias, name in self.aliases.items() if name not in self.classes}
        if lost:
            raise ValueError(f"aliases: {lost} name no class; classes are {', '.join(self.classes)}")
        return self

    def resolve(self, label: str | None) -> str | None:
        """The class that `label` means, or None."""
        if label is None:
            return None
        label = self.aliases.get(label, label)
        return label if label in self.classes else None


class Image(Section):
    """The canonical image, and what is let in."""

    size: int = Field(default=64, ge=8, le=1024)
    """Height and width in pixels."""
    fit: Literal["crop", "pad", "stretch"] = "crop"
    max_bytes: int = Field(default=20_000_000, ge=1)
    max_pixels: int = Field(default=50_000_000, ge=1)
    min_side: int = Field(default=8, ge=1)
    """Smaller photos go to quarantine."""


class Validation(Section):
    """When a record goes to quarantine, and when a whole day stops the flow."""

    min_records: int = Field(default=1, ge=1)
    max_bad_share: float = Field(default=0.2, ge=0, le=1)
    """More bad photos than this share stop the day."""
    max_class_share: float = Field(default=0.9, gt=0, le=1)
    """One class with more than this share of the day's known labels stops the day (once 30 are known)."""
    near_duplicate_bits: int = Field(default=-1, ge=-1, le=16)
    """Perceptual hashes at most so many of 64 bits apart are one group, kept on one side of a split.
    -1 switches it off."""


class Features(Section):
    """What is known about a sender."""

    profile_days: int = Field(default=30, ge=1)
    """Window of `source_profile`."""
    max_age_days: int = Field(default=60, ge=1)
    """Feast `ttl`: older features are not joined."""


class Snapshot(Section):
    """The training set as of a time."""

    window_days: int = Field(default=30, ge=1)
    holdout_share: float = Field(default=0.25, gt=0, lt=0.9)
    """Share of senders no model ever trains on: their photos are the golden and the fresh test rows."""
    val_share: float = Field(default=0.15, gt=0, lt=0.9)
    """Share of senders for model choice, early stop and calibration."""
    fresh_days: int = Field(default=3, ge=1)
    """Held-out rows of the last so many days are the fresh test rows."""
    min_rows_per_class: int = Field(default=2, ge=1)
    """A class with fewer training rows is refused: a class with one example cannot be learned and judged."""
    seed: int = 7


class Gates(Section):
    """What a contender must show before it is promoted."""

    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """Of each bound."""
    metric: Literal["accuracy", "macro_f1", "log_loss"] = "accuracy"
    """The success metric: what the contender must be better at."""
    require: Literal["better", "not_worse"] = "better"
    """What the success metric must show on fresh rows. `not_worse` suits a contender that is wanted for another reason,
    such as a smaller model."""
    after_drift: Literal["better", "not_worse"] = "not_worse"
    """The same on rows since a drift began, if one asked for the training and they are `min_rows` or more: that keeping
    the champion costs accuracy is known by then, and what a contender knows more about senders that both have learnt
    from shows on no photo of a held-out one."""
    margin: float = Field(default=0.02, gt=0, lt=1)
    """How much accuracy a contender may lose where it must not be worse."""
    f1_margin: float = Field(default=0.05, gt=0, lt=1)
    """The same for macro-F1."""
    log_loss_margin: float = Field(default=0.1, gt=0)
    """The same for log loss, in nats."""
    calibration_margin: float = Field(default=0.05, gt=0)
    """The same for the expected calibration error."""
    drift_trade: float = Field(default=1.0, ge=0, le=10)
    """After a drift a loss on golden rows, which are of the world before it, or on a slice is weighed against what is
    won on rows since then: odds of k + 1 to 1 after k changed days, times this, that a photo to come is of the
    changed world. 0 weighs nothing: both are asked as they are."""
    latency_factor: float = Field(default=3.0, gt=0)
    """A contender may be at most so many times as slow as the champion."""
    size_factor: float = Field(default=3.0, gt=0)
    """Its package may be at most so many times as large."""
    cost_factor: float = Field(default=10.0, gt=0)
    """Its training may have cost at most so many times as much (time, where budget.price_per_hour is 0)."""
    min_rows: int = Field(default=50, ge=1)
    """Fewer fresh rows than this is INSUFFICIENT DATA."""
    slices: bool = True
    """Whether a slice that is lost holds a contender back; if not, slices are only shown."""
    slice_margin: float = Field(default=0.1, gt=0, lt=1)
    """How much accuracy may be lost on one slice."""
    slice_min_rows: int = Field(default=40, ge=5)
    """Smaller slices are shown and never decide."""
    slice_columns: tuple[str, ...] = ()
    """More columns to slice by, beside class, sender size, new senders, brightness and resolution: a picture statistic,
    a context name, or one of the source's `attributes`."""
    approval: bool = False
    """A person must approve before a promotion: in Airflow, or by a tag on the version in MLflow."""


class Behaviour(Section):
    """What a model must do beside being right: asked of the contender, and of the champion for comparison."""

    flip: bool = False
    """The answer stays when a photo is mirrored; not for digits or text."""
    shift: float = Field(default=0.05, ge=0, le=0.25)
    """The answer stays when a photo moves by this share of its side; 0 switches it off."""
    jpeg: int = Field(default=60, ge=0, le=95)
    """The answer stays when a photo is saved at this quality; 0 switches it off."""
    min_agreement: float = Field(default=0.8, ge=0, le=1)
    """Share of photos whose answer must stay."""
    context: bool = True
    """A class does not become less likely when the sender has sent more of it."""
    class_floor: float = Field(default=0.0, ge=0, lt=1)
    """Share of its photos that each class must get right, where it has `gates.slice_min_rows` of them."""
    gating: bool = False
    """Whether a contender that fails one of these is held back; if not, they are only reported."""


class Monitoring(Section):
    """How a day is watched."""

    window_days: int = Field(default=1, ge=1)
    min_rows: int = Field(default=40, ge=2)
    """A smaller window is UNKNOWN, never "no drift"."""
    reference_days: int = Field(default=5, ge=1)
    """The champion's reference: held-out rows of the last so many days it knew."""
    false_alarms: float = Field(default=0.05, gt=0, lt=0.5)
    """Chance that any column of any window is called drift while `family_windows` windows pass in which nothing
    changes."""
    family_windows: int = Field(default=30, ge=1)
    """Windows that share this chance. Each gets its part of it (Bonferroni), which holds although windows share a
    reference; within a window all columns share its part."""
    min_effect: float = Field(default=0.12, ge=0, le=1)
    """A smaller Kolmogorov-Smirnov or total-variation distance is not drift, however sure."""
    season: Literal["none", "week"] = "none"
    """"week": a window is compared with reference photos of the same weekdays, where there are `min_rows` of them.
    `reference_days` must then reach back some weeks."""
    truth_days: int = Field(default=3, ge=1)
    """Accuracy is measured on labelled predictions of the last so many days."""

    @property
    def alpha(self) -> float:
        """Chance of a false alarm in one window, over all columns together."""
        return self.false_alarms / self.family_windows


class Policy(Section):
    """When to ask for a contender, for labels, or for a person."""

    min_loss: float = Field(default=0.05, gt=0, lt=1)
    """Accuracy must be down by at least this much."""
    min_fresh_labels: int = Field(default=100, ge=1)
    """Labels since the drift began; fewer asks for labels instead."""
    confirm: int = Field(default=2, ge=1)
    """Windows with drift that establish it, of the champion's last `windows` that could be told."""
    windows: int = Field(default=3, ge=1)
    calm: int = Field(default=2, ge=1)
    """Windows in a row without drift and without a loss after which an incident is over, if accuracy is back: surely
    less than `min_loss` below what it was before."""
    sure_loss: float = Field(default=0.001, gt=0, lt=0.5)
    """A loss this unlikely by chance establishes a change that no drift was seen of."""
    regain: float = Field(default=0.02, gt=0, lt=1)
    """While accuracy is surely below what it was before the incident, and by this much or more, more is to be won."""
    settle: int = Field(default=14, ge=1)
    """Windows in a row that are calm, and days since a contender was asked for, after which an incident is over
    although accuracy is not back: the new world is harder."""
    follow_up: float = Field(default=2.0, gt=1)
    """While accuracy is not back, or the new world was learnt from fewer labels than the old one, a contender is asked
    for again each time the labels since the change have grown by this factor."""
    cooldown_days: int = Field(default=2, ge=0)
    """Days after a retraining was asked for in which none is asked again."""
    in_flight_days: int = Field(default=7, ge=0)
    """A retraining that no judge has answered after so many days is given up."""
    max_retrains: int = Field(default=6, ge=0)
    """Retrainings that may be asked for in `budget_days`; when more are wanted, a person is called."""
    max_money: float = Field(default=0.0, ge=0)
    """What trainings of `budget_days` may cost together, in `budget.currency`. Another one that goes beyond it, if it
    costs as much as the last, is not asked for, and a person is called. 0: no such limit."""
    budget_days: int = Field(default=30, ge=1)
    give_up_after: int = Field(default=2, ge=1)
    """After so many contenders in a row that were held, a person is called and no more are asked for. Those that too
    few rows could not tell from the champion ask for labels instead."""
    rollback: bool = True
    """Whether a champion that loses accuracy in a world that did not change is rolled back by itself."""
    probation_days: int = Field(default=3, ge=0)
    """For so many days after what it was trained on was known."""
    blind_windows: int = Field(default=3, ge=1)
    """After so many windows in a row that cannot be told, a person is called."""

    @model_validator(mode="after")
    def _counts(self) -> "Policy":
        if self.confirm > self.windows:
            raise ValueError(f"confirm={self.confirm}: cannot be more than windows={self.windows}")
        return self


class Story(Section):
    """How `make run` and `classy loop` play the replay."""

    history_days: int = Field(default=6, ge=1)
    """Days that are gathered before the first champion is trained."""
    last_day: date | None = None
    """Last day that is played; none: the whole replay."""
