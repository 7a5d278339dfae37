"""Relations to covariates, added to any model without writing it anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deepnlme.covariates.distinct import require_distinct
from deepnlme.covariates.forms import Relation, Term, bound
from deepnlme.data import Population
from deepnlme.errors import ModelError, invalid
from deepnlme.joint import Joint
from deepnlme.model import Model


class CovariateModel(Model):
    """A model whose individual parameters are multiplied by factors of covariates.

    Args:
        model: The model.
        terms: The relations, with their numbers.

    Attributes:
        model: The model without the relations.
        terms: The relations.
    """

    def __init__(self, model: Model, terms: Sequence[Term]):
        before = model.declared
        declared = {n: d for n, d in before.items() if n in model.parameters}
        for term in terms:
            for name, declaration in term.declarations().items():
                if name in declared or name in before:
                    expected = f"The model already declares `{name}`"
                    raise ModelError(invalid("relations", term.label, expected, fix="Give each relation once"))
                declared[name] = declaration
        inner = without_relations(model)
        if inner is not model:
            model, terms = inner, [*model.terms, *terms]  # type: ignore[attr-defined]
        self.model, self.terms = model, tuple(terms)
        self.dynamics, self.solver = model.dynamics, model.solver
        self.declared = declared | {n: d for n, d in before.items() if n not in declared}
        self._check()

    def __str__(self) -> str:
        covariates = ", ".join(dict.fromkeys(term.covariate for term in self.terms))
        return f"{self.model} with relations to {covariates}" if self.terms else str(self.model)

    def check_people(self, population: Population) -> None:
        """Refuse people that a relation cannot take.

        Raises:
            DataError: Texts coded otherwise, unknown levels, a power of what is not positive.
        """
        self.model.check_people(population)
        for term in self.terms:
            term.check(population)

    def individual(self, theta: Any, eta: Any, cov: Any) -> dict[str, Any]:
        """Individual parameters of the model, each multiplied by the factors of its relations."""
        p = dict(self.model.individual(theta, eta, cov))
        for term in self.terms:
            if term.parameter not in p:
                expected = f"`individual` returns {', '.join(p) or '(nothing)'}"
                raise ModelError(invalid("relations", repr(term.parameter), expected, fix="Name one of these"))
            p[term.parameter] = p[term.parameter] * term.factor(theta, cov[term.covariate])
        return p

    def initial(self, theta: Any, p: Any) -> dict[str, Any]:
        """As in the model."""
        return self.model.initial(theta, p)

    def dosing(self, theta: Any, p: Any) -> dict[str, Any]:
        """As in the model."""
        return self.model.dosing(theta, p)

    def observe(self, theta: Any, p: Any, x: Any) -> dict[str, Any]:
        """As in the model."""
        return self.model.observe(theta, p, x)


def without_relations(model: Model) -> Model:
    """The model below relations to covariates, where nothing else stands on top of them; else the model itself."""
    only = type(model).individual is CovariateModel.individual
    return model.model if only else model  # type: ignore[attr-defined]


def with_covariates(
    model: Model, relations: Mapping[str, Relation | str | Sequence[Relation | str]], population: Population
) -> CovariateModel:
    """The model with relations of its individual parameters to covariates.

    Each relation multiplies what `individual` returns by a factor (see `deepnlme.covariates.forms`) and declares its
    coefficients: ``cl_wt``; ``cl_wt_low`` and ``cl_wt_high`` of a piecewise one; ``cl_sex_male`` for each level of a
    categorical one but the most frequent. They start at no effect.

    Args:
        model: The model; it is not changed.
        relations: By individual parameter: ``{"cl": [dn.Relation("wt", "power"), "sex"], "v": "wt"}``; a name alone
            takes the form that suits the covariate.
        population: Its medians (over the subjects' first records) are where the factors are 1; they stay with the
            model.

    Returns:
        The new model, to be fitted and simulated like any other.

    Raises:
        ModelError: A parameter that `individual` does not return, a relation given twice, an unknown form.
        DataError: A covariate that is not there, does not vary, does not suit the form, or says the same as another.
    """
    if not isinstance(model, Model) or not isinstance(population, Population):
        what, value = ("population", population) if isinstance(model, Model) else ("model", model)
        raise ModelError(invalid(what, type(value).__name__, "It takes (model, relations, population)"))
    if not isinstance(relations, Mapping) or not relations:
        expected = 'It maps parameters to relations: {"cl": [dn.Relation("wt", "power")]}'
        raise ModelError(invalid("relations", repr(relations), expected))
    terms = []
    for parameter, wanted in relations.items():
        if not isinstance(wanted, Relation | str | Sequence):
            expected = "It is a relation, the name of a covariate, or a list of them"
            raise ModelError(invalid("relations", repr(wanted), expected, str(parameter)))
        each = [wanted] if isinstance(wanted, Relation | str) else list(wanted)
        terms += [bound(parameter, relation, population) for relation in each]
    new = CovariateModel(model, terms)
    new.check_people(population)
    Joint(new, population[:1])
    require_distinct(population, new.terms, "relations")
    return new
