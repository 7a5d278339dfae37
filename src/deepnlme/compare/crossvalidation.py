"""Cross-validation by subject."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from deepnlme.compare.crossvalidated import CrossValidation
from deepnlme.compare.distances import predictive_distance
from deepnlme.compare.folds import Kept, deal, head
from deepnlme.compare.same import discrete
from deepnlme.data import Population
from deepnlme.errors import DataError, DeepNLMEError, ModelError, invalid
from deepnlme.estimation import FOCE, Fit, FitStatus, Method, Options, evaluate_ofv, fit
from deepnlme.model import Model


def cross_validate(
    models: Mapping[str, Any],
    population: Population,
    method: Method | None = None,
    folds: int = 5,
    seed: int = 0,
    options: Options | None = None,
    stratify: str | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> CrossValidation:
    """Fit every model to all subjects but one fold, and judge it on that fold, for every fold.

    Subjects are never divided. The fits begin at the declared initial values, by one approximation for all models.
    What is judged is what `predictive_distance` says. A fold whose fit fails is reported and the others go on; Ctrl-C
    gives what has been done.

    Args:
        models: Models by name, or pairs of a model and its `Options`. The first is the reference.
        population: The subjects.
        method: The approximation of the likelihood; `FOCE()` by default.
        folds: Number of folds; as many as subjects is leave-one-out.
        seed: Of the folds, and of the intervals.
        options: For models without their own; there is no covariance step.
        stratify: A covariate whose distribution is to be alike in all folds.
        checkpoint: A file that keeps finished folds; the same call goes on from it. Failed folds are tried again.
        progress: Show a progress line.

    Raises:
        ModelError, DataError: Before any fit: models or data that do not suit, a checkpoint of something else.
    """
    method = FOCE() if method is None else method
    chosen = _checked(models, options)
    if not isinstance(population, Population):
        raise DataError(invalid("population", type(population).__name__, "It is a Population"))
    fold = deal(population, folds, seed, stratify)
    starts = {n: evaluate_ofv(model, population, method, options=opts) for n, (model, opts) in chosen.items()}
    values = {name: float(start.evaluation.value[0]) for name, start in starts.items()}
    kept = Kept.open(checkpoint, head(chosen, population, method, fold, seed, values))
    failed = _run(chosen, population, method, fold, seed, kept, progress)
    if not kept.done and not failed:
        raise KeyboardInterrupt("interrupted before the first fold was finished")
    return _collected(chosen, population, method, fold, kept, failed, starts)


def _checked(models: Any, options: Options | None) -> dict[str, tuple[Model, Options]]:
    if not isinstance(models, Mapping) or not models:
        got = type(models).__name__ if not isinstance(models, Mapping) else "an empty dict"
        raise ModelError(invalid("models", got, 'It is a dict such as {"base": Base(), "full": Full()}'))
    shared = Options() if options is None else options
    if not isinstance(shared, Options):
        raise ModelError(invalid("options", type(shared).__name__, "They are dn.Options(...), or None"))
    out = {}
    for name, value in models.items():
        model, own = value if isinstance(value, tuple | list) and len(value) == 2 else (value, shared)
        if not isinstance(model, Model) or not isinstance(own, Options):
            got = ", ".join(type(v).__name__ for v in (value if isinstance(value, tuple | list) else [value]))
            expected = "It is a model, or a pair of a model and dn.Options(...)"
            raise ModelError(invalid("models", got, expected, str(name)))
        if own.checkpoint is not None:
            fix = "Use cross_validate(..., checkpoint=...)"
            raise ModelError(invalid("checkpoint", str(own.checkpoint), "Folds cannot share it", str(name), fix))
        if isinstance(own.held_out, Population):
            fix = "Use a share of the subjects: held_out=0.2"
            raise ModelError(invalid("held_out", "a population", "Its subjects may be in a fold", str(name), fix))
        out[str(name)] = (model, replace(own, progress=False, covariance=None))
    return out


def _run(
    models: Mapping[str, tuple[Model, Options]],
    population: Population,
    method: Method,
    fold: np.ndarray,
    seed: int,
    kept: Kept,
    progress: bool,
) -> dict[tuple[str, int], str]:
    """Do what is not done yet; returns the messages of what failed."""
    todo = [(name, k) for k in range(fold.max() + 1) for name in models if kept.get(name, k) is None]
    failed = {}
    done = len(models) * (int(fold.max()) + 1) - len(todo)
    bar = tqdm(total=len(todo) + done, initial=done, disable=not progress, leave=False, desc="cross-validation")
    with bar:
        for name, k in todo:
            bar.set_postfix_str(f"{name}, fold {k + 1}")
            try:
                found = _one(*models[name], population[fold != k], population[fold == k], method, seed)
            except KeyboardInterrupt:
                break
            except (DeepNLMEError, ArithmeticError, RuntimeError, np.linalg.LinAlgError) as error:
                failed[(name, k)] = f"{type(error).__name__}: {error}"
            else:
                kept.save(name, k, found)
            bar.update()
    return failed


def _one(
    model: Model, options: Options, train: Population, test: Population, method: Method, seed: int
) -> dict[str, Any]:
    """Fit to one part, judge on the other; everything as JSON."""
    began = time.perf_counter()
    fitted = fit(model, train, method, options=options)
    if fitted.status is FitStatus.INTERRUPTED:
        raise KeyboardInterrupt
    found = predictive_distance(fitted, test, seed=seed)
    if not math.isfinite(found.ofv):
        raise ModelError("the OFV of the held-out subjects is not finite")
    columns = {name: values.tolist() for name, values in found.predictions.items()}
    return {
        "-2LL": found.minus2ll,
        "OFV": found.ofv,
        "subjects": found.subjects,
        "observations": found.observations,
        "converged": fitted.converged,
        "status": fitted.status.value,
        "unconverged": list(found.unconverged),
        "fitted OFV": fitted.ofv,
        "seconds": time.perf_counter() - began,
        "subject_ofv": found.subject_ofv.tolist(),
        "predictions": columns,
    }


def _collected(
    models: Mapping[str, tuple[Model, Options]],
    population: Population,
    method: Method,
    fold: np.ndarray,
    kept: Kept,
    failed: Mapping[tuple[str, int], str],
    starts: Mapping[str, Fit],
) -> CrossValidation:
    ids, reference = list(population.ids), next(iter(models))
    rows, predictions, notes = [], [], []
    subject = pd.DataFrame(np.nan, index=ids, columns=list(models))
    for name in models:
        for k in range(int(fold.max()) + 1):
            found = kept.get(name, k)
            row = _row(found, failed.get((name, k), "not done: interrupted"))
            rows.append({"model": name, "fold": k + 1, **row})
            if row["message"]:
                notes.append(f"{name}, fold {k + 1}: {row['message']}")
            if found is not None:
                subject.loc[[ids[i] for i in np.flatnonzero(fold == k)], name] = found["subject_ofv"]
                predictions.append(pd.DataFrame({"MODEL": name, "FOLD": k + 1, **found["predictions"]}))
    incomparable = {n: _incomparable(start, starts[reference]) for n, start in starts.items()}
    notes += [f"{name}: d-2LL is refused: {reason}" for name, reason in incomparable.items() if reason]
    return CrossValidation(
        method.name,
        reference,
        pd.Series(fold + 1, index=pd.Index(ids, name="ID"), name="fold"),
        pd.DataFrame(rows),
        pd.concat(predictions, ignore_index=True) if predictions else pd.DataFrame(columns=["MODEL", "FOLD"]),
        subject,
        tuple(notes),
        tuple(name for name, reason in incomparable.items() if reason),
    )


def _row(found: Mapping[str, Any] | None, message: str) -> dict[str, Any]:
    """One fold in the table of folds."""
    if found is None:
        return {"done": False, "message": message}
    said = [] if found["converged"] else [found["status"]]
    lost = len(found["unconverged"])
    if lost:
        said.append(f"random effects not found for {lost} held-out subjects")
    numbers = {c: v for c, v in found.items() if c not in ("subject_ofv", "predictions")}
    return {"done": True, **numbers, "unconverged": lost, "message": "; ".join(said)}


def _incomparable(start: Fit, reference: Fit) -> str:
    if start.n_observations != reference.n_observations:
        return f"other observations in the likelihood: {start.n_observations} against {reference.n_observations}"
    if (discrete(start) > 0) != (discrete(reference) > 0):
        return "a density of the observations against probabilities"
    return ""
