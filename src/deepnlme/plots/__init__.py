"""Pictures of a fit, by matplotlib (extra `plots`): ``from deepnlme import plots``.

Every function takes a `Fit`, draws into the axes it is given or into a new figure, and returns the figure; save it
with ``figure.savefig("gof.pdf")``. Sizes are those of a journal (85 and 180 mm), colours those of Okabe and Ito
(2008), which people with colour-blindness tell apart. Units come from the model's declarations; `units` overrides them.
"""

from deepnlme.plots.convergence import convergence
from deepnlme.plots.eta_distributions import eta_distributions
from deepnlme.plots.goodness_of_fit import goodness_of_fit
from deepnlme.plots.individual_fits import individual_fits

__all__ = ["convergence", "eta_distributions", "goodness_of_fit", "individual_fits"]
