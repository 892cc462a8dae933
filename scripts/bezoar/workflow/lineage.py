"""What is trained on what: each training with its rows, the model under it and the adapter that it
continues; each merge with its base, its adapter and the trainings that it combines.
"""

from dataclasses import dataclass

from bezoar.workflow.layout import BASE, DPO, HH_SFT, PAIRS, SFT, Layout

ADAPTER = "adapter_model.safetensors"


@dataclass(frozen=True)
class Training:
    """One training of an adapter: `name` is its directory below the results, `stage` its receipt's
    name, `section` its section of the configuration; `parent` is the adapter that it continues, if
    any.
    """

    name: str
    section: str
    rows: str
    base: str
    directory: str
    parent: str | None = None

    @property
    def stage(self) -> str:
        """The name of its receipt."""
        return self.name.replace("/", "_")

    @property
    def adapter(self) -> str:
        """The weights that it writes."""
        return f"{self.directory}/{ADAPTER}"


@dataclass(frozen=True)
class Merge:
    """One merged model: `below` is the model that it is merged onto, `trainings` are those since
    that model, in order; the last one's adapter is merged. `probe` are rows to measure it on.
    """

    model: str
    below: str
    base: str
    probe: str
    trainings: tuple[Training, ...]

    @property
    def adapter(self) -> str:
        """The adapter that is merged."""
        return self.trainings[-1].adapter


def collected(layout: Layout, rows: str) -> str:
    """Return the rows of a scheme as they were rated, or the preference pairs (`PAIRS`)."""
    return f"{layout.results}/{'preferences' if rows == PAIRS else 'filter'}/{rows}.jsonl"


def used(layout: Layout, rows: str) -> str:
    """Return the same as trainings read them: without what the configuration has removed."""
    if layout.config["data"]["remove"]:
        return f"{layout.results}/data/clean/{rows}.jsonl"
    return collected(layout, rows)


def sft_training(layout: Layout, scheme: str) -> Training:
    """Return the training on a scheme: over the base, continuing the adapter before it, or over the
    model into which the schemes before it were merged.
    """
    place = layout.schemes.index(scheme)
    before = layout.schemes[place - 1] if place else None
    carried = before and not layout.steps
    return Training(
        name=f"sft/{scheme}",
        section="sft",
        rows=used(layout, scheme),
        base=layout.weights(f"sft-{before}" if before and layout.steps else BASE),
        directory=f"{layout.results}/sft/{scheme}",
        parent=f"{layout.results}/sft/{before}/{ADAPTER}" if carried else None,
    )


def preference_training(layout: Layout, section: str) -> Training:
    """Return the training on the preference data: `hh_sft` over the SFT model, `dpo` over that."""
    base = {"hh_sft": SFT, "dpo": HH_SFT}[section]
    directory = f"{layout.results}/{section}"
    return Training(section, section, used(layout, PAIRS), layout.weights(base), directory)


def trainings(layout: Layout) -> list[Training]:
    """Return all trainings, in order."""
    return [
        *(sft_training(layout, scheme) for scheme in layout.schemes),
        *(preference_training(layout, section) for section in ("hh_sft", "dpo")),
    ]


def merge(layout: Layout, model: str) -> Merge:
    """Return how a merged model is made."""
    below = [BASE, *layout.merged][layout.merged.index(model)]
    preference = {HH_SFT: "hh_sft", DPO: "dpo"}
    if model in preference:
        since = [preference_training(layout, preference[model])]
        probe = used(layout, PAIRS)
    else:
        last = layout.schemes[-1] if model == SFT else model.removeprefix("sft-")
        schemes = layout.schemes if not layout.steps else [last]
        since = [sft_training(layout, scheme) for scheme in schemes]
        probe = collected(layout, last)
    return Merge(model, below, layout.weights(below), probe, tuple(since))


def measured(layout: Layout, state: str) -> tuple[str, str | None]:
    """Return (weights, adapter over them or None) of a state whose learning is measured."""
    if state not in layout.schemes:
        return layout.weights(state), None
    training = sft_training(layout, state)
    return training.base, training.adapter
