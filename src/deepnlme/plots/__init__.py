"""Pictures of a fit, by matplotlib (extra `plots`): ``from deepnlme import plots``.

Every function takes a `Fit`, or what a diagnostic made of one, draws into the axes it is given or into a new figure,
and returns the figure; save it with ``figure.savefig("gof.pdf")``. Sizes are those of a journal (85 and 180 mm),
colours those of Okabe and Ito (2008), which people with colour-blindness tell apart. Units come from the model's
declarations; `units` overrides them.
"""

from deepnlme.plots.attainment import plot_exposure, plot_target_attainment
from deepnlme.plots.augmented import plot_augmented
from deepnlme.plots.convergence import plot_convergence
from deepnlme.plots.covariate_effects import plot_covariate_effects
from deepnlme.plots.discovery import plot_distillation, plot_effect_curves
from deepnlme.plots.eta_covariates import plot_eta_covariates
from deepnlme.plots.eta_distributions import plot_eta_distributions
from deepnlme.plots.eta_pairs import plot_eta_pairs
from deepnlme.plots.goodness_of_fit import plot_goodness_of_fit
from deepnlme.plots.individual_fits import plot_individual_fits
from deepnlme.plots.influence import plot_influence
from deepnlme.plots.lasso_path import plot_lasso_path
from deepnlme.plots.learning import plot_learning, plot_predicted
from deepnlme.plots.networks import plot_network
from deepnlme.plots.npde import plot_npde
from deepnlme.plots.observations import plot_observations
from deepnlme.plots.selection import plot_selection
from deepnlme.plots.simulated import plot_simulation
from deepnlme.plots.vpc import plot_vpc

__all__ = [
    "plot_augmented",
    "plot_convergence",
    "plot_covariate_effects",
    "plot_distillation",
    "plot_effect_curves",
    "plot_eta_covariates",
    "plot_eta_distributions",
    "plot_eta_pairs",
    "plot_exposure",
    "plot_goodness_of_fit",
    "plot_individual_fits",
    "plot_influence",
    "plot_lasso_path",
    "plot_learning",
    "plot_network",
    "plot_npde",
    "plot_observations",
    "plot_predicted",
    "plot_selection",
    "plot_simulation",
    "plot_target_attainment",
    "plot_vpc",
]
