"""One HTML file about one run: did the defense work, and why?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bdbench.cells import metrics
from bdbench.cells.runs import Reopened
from bdbench.components import configs
from bdbench.components.interfaces import ReportSection
from bdbench.display import pictures, templates
from bdbench.errors import BdbenchError
from bdbench.experiment import reopen
from bdbench.images.data import Role
from bdbench.progress import Progress
from bdbench.registry.plugins import installed
from bdbench.seeds import Streams
from bdbench.storage.record import Record
from bdbench.storage.store import write_file

_PAIRS, _FLAGGED = 8, 50
# What the verdict calls a backdoor that works, and one that is gone.
_WORKS, _GONE = 0.5, 0.1


def write(
    run: Path,
    output: Path | None = None,
    *,
    data_root: str | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Path:
    """Write the report of a run's folder, or of a record alone, to ``output`` (none: report.html in the folder).

    A record without its scores.npz has no pictures of scores. Raises BdbenchError; see ``runs.reopen``.
    """
    if output is None:
        if not run.is_dir():
            raise BdbenchError(f"{run} is no run's folder: expected --output FILE beside a record")
        output = run / "report.html"
    opened = reopen(run, data_root=data_root, device=device, progress=progress)
    write_file(output, render(opened))
    return output


def render(run: Reopened) -> str:
    """The page: the verdict and the numbers first, then the core's pictures and those of plugins."""
    own = list(_sections(run))
    added = installed().collect("bdbench_report_sections", run=run)
    config = run.record.config
    names = {kind: configs.spec(config[kind]) for kind in configs.KINDS}
    tone, sentence = verdict(run.record)
    return templates.load("report.html").render(
        title=f"{config['defense']['name']} against {configs.labels([config['attack']])[0]}, seed {run.record.seed}",
        tone=tone,
        sentence=sentence,
        command=configs.command(config, run.record.seed),
        facts=[*names.items(), *_facts(run)],
        sections=[(s.title, s.caption, _embedded(s.figure)) for s in [*own, *added]],
    )


def verdict(made: Record) -> tuple[str, str]:
    """A word for the outcome ('good', 'bad' or 'plain') and a sentence on it."""
    if made.verdict is not None:
        return _of_a_model(made)
    if made.inputs is not None and made.after is None:
        return "plain", "Nothing was refused: inputs were scored only, and no clean ones say from which score on."
    after, before = made.after, made.base
    if after is None:
        if made.decision is None or made.decision.after is None:
            return "plain", "Nothing was removed: the training examples were scored only."
        after = made.decision.after
    accuracy = f"Clean accuracy went from {_percent(before.clean_accuracy)} to {_percent(after.clean_accuracy)}."
    if before.attack_success_rate is None or after.attack_success_rate is None:
        return "plain", f"Nothing was attacked: this is what the defense costs. {accuracy}"
    success = f"from {_percent(before.attack_success_rate)} to {_percent(after.attack_success_rate)}"
    found = ""
    if made.detection is not None and made.detection.budget and made.detection.tpr_at_budget is not None:
        share, budget = _percent(made.detection.tpr_at_budget), _percent(made.detection.budget)
        found = f" {share} of the poisons were in the {budget} that it removed."
    if before.attack_success_rate < _WORKS:
        return "plain", f"The attack did not work to begin with: its success went {success}. {accuracy}{found}"
    if after.attack_success_rate <= _GONE:
        return "good", f"The backdoor is gone: attack success fell {success}. {accuracy}{found}"
    state = "is weaker, but there" if after.attack_success_rate < _WORKS else "is still there"
    return "bad", f"The backdoor {state}: attack success went {success}. {accuracy}{found}"


def _of_a_model(made: Record) -> tuple[str, str]:
    assert made.verdict is not None
    said = "backdoored" if made.verdict.flagged else "clean"
    named = f", with target {'+'.join(map(str, made.verdict.targets))}" if made.verdict.targets else ""
    right = made.verdict.flagged != made.control
    hit = (
        "" if made.verdict.hit is None else f" The targets that it names are {'' if made.verdict.hit else 'not '}right."
    )
    return "good" if right else "bad", f"The model is called {said}{named}; it is {'right' if right else 'wrong'}.{hit}"


def _sections(run: Reopened) -> Iterator[ReportSection]:
    made = run.record
    base, after = made.base, made.after
    if after is None and made.decision is not None:
        after = made.decision.after
    if after is not None:
        rows = {
            "clean accuracy": (base.clean_accuracy, after.clean_accuracy),
            "attack success rate": (base.attack_success_rate, after.attack_success_rate),
            "robust accuracy": (base.robust_accuracy, after.robust_accuracy),
        }
        known = {name: (b, a) for name, (b, a) in rows.items() if b is not None and a is not None}
        caption = "Before: plain training on the whole set, by the stream that the model after was trained by."
        yield ReportSection(
            "Before and after", pictures.before_and_after(known), caption if base is made.reference else ""
        )
    yield from _poisons(run)
    if run.scores is not None and made.detection is not None:
        yield from _scores(run, run.scores, np.ones(len(run.scores), bool) if run.kept is None else run.kept)
    yield from _inputs(run)
    yield ReportSection("Cost", pictures.cost(made.cost.seconds), "Wall seconds of each stage, when it was computed.")


def _poisons(run: Reopened) -> Iterator[ReportSection]:
    clean, poisoned = np.asarray(run.clean.train.images), run.poisoned
    changed = np.flatnonzero(poisoned.roles != Role.CLEAN)
    origin = np.arange(len(clean)) if poisoned.index is None else poisoned.index
    if len(changed):
        chosen = changed[np.linspace(0, len(changed) - 1, min(_PAIRS, len(changed))).astype(int)]
        names = np.array(run.clean.classes)
        pairs = zip(names[poisoned.original_labels[chosen]], names[poisoned.labels[chosen]], strict=True)
        figure = pictures.examples(clean[origin[chosen]], poisoned.images[chosen], [f"{a} as {b}" for a, b in pairs])
        caption = "Training examples, with their true class and the label they are trained on."
        yield ReportSection("What the attack does", figure, caption)


def _scores(run: Reopened, scores: np.ndarray, kept: np.ndarray) -> Iterator[ReportSection]:
    roles, found = run.poisoned.roles, run.record.detection
    assert found is not None
    caption = "A defense that works puts the poisons to the right of all that is clean."
    threshold = None if kept.all() else float(scores[~kept].min())
    yield ReportSection("Scores by role", pictures.histogram(scores, roles, threshold), caption)
    if found.auroc is not None:
        point = None
        if found.fpr_at_budget is not None and found.tpr_at_budget is not None:
            point = found.fpr_at_budget, found.tpr_at_budget
        figure = pictures.curves(scores, roles, point)
        yield ReportSection("ROC and precision-recall", figure, "Dotted: a defense that guesses.")
    top = metrics.rank(scores, Streams(run.record.seed)("ties"))[:_FLAGGED]
    labels = np.array(run.clean.classes)[run.poisoned.labels[top]]
    figure = pictures.flagged(run.poisoned.images[top], roles[top], labels)
    counts = [f"{np.count_nonzero(roles[top] == role)} {role.name.lower()}" for role in Role if (roles == role).any()]
    caption = f"From the most suspicious on, with the labels they are trained on: {', '.join(counts)}."
    yield ReportSection(f"The {len(top)} most suspicious examples", figure, caption)


def _inputs(run: Reopened) -> Iterator[ReportSection]:
    if "clean_scores" in run.arrays and len(run.arrays["challenge_scores"]):
        clean, challenged = run.arrays["clean_scores"], run.arrays["challenge_scores"]
        roles = np.concatenate([np.full(len(clean), Role.CLEAN), np.where(run.attacked, Role.POISON, Role.COVER)])
        figure = pictures.histogram(np.concatenate([clean, challenged]), roles, None)
        caption = "Test images: clean ones, those with the trigger (poison), and bystanders (cover), if there are any."
        yield ReportSection("Scores of inputs", figure, caption)


def _facts(run: Reopened) -> Iterator[tuple[str, str]]:
    made = run.record
    data, environment = made.config.get("data", {}), made.environment
    yield "training set", f"{data.get('train')} examples, {data.get('poisons')} of them poisons"
    if data.get("targets"):
        yield "targets", ", ".join(configs.targets(data))
    yield "stage of defense", made.stage
    if run.defense.assumption:
        yield "what it assumes", run.defense.assumption
    if made.detection is not None:
        shown = {"AUROC": made.detection.auroc, "average precision": made.detection.average_precision}
        yield from ((name, f"{value:.3f}") for name, value in shown.items() if value is not None)
    if made.inputs is not None and made.inputs.auroc is not None:
        yield "AUROC of inputs", f"{made.inputs.auroc:.3f}"
    if made.decision is not None:
        yield "flagged by its own decision", _percent(made.decision.flagged)
    if made.p_value is not None:
        yield "p-value", f"{made.p_value:.3g}"
    yield "oracles", ", ".join(made.oracles) or "none"
    yield "models trained", str(made.cost.models_trained)
    yield "peak memory", f"{made.cost.peak_memory_mb:.0f} MB"
    where = ", ".join(filter(None, [environment["device"], environment.get("processor", "")]))
    yield "where", f"{where}, {environment['threads']} threads, commit {environment['commit']}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _embedded(figure: Any) -> str:
    """A matplotlib figure as a data URL."""
    return templates.picture(pictures.rendered(figure))
