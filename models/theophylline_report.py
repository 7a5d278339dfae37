"""Theophylline by mouth, reported: from the data to one HTML file that a reviewer can read.

    cl = theta_cl (wt/70)^0.75 exp(eta_cl)        v = theta_v (wt/70) exp(eta_v)        ka = theta_ka exp(eta_ka)
    y = central/v + eps,  eps ~ N(0, add_sd^2 + (prop_sd central/v)^2)

Data: datasets/theophylline (12 people, one dose of about 4 mg/kg). The model is that of `theophylline.py` with a
residual error that has a proportional part too, and with clearance and volume scaled to body weight by allometry, so
that the report has covariate effects. Beside it stand the additive error alone and the model without weight.

`report` writes the summary (warnings first), objectives, data and exclusions, methods with the source code, results
with all diagnostics, discussion, run record and appendix. The file needs no network and prints on A4. It is written
into the folder of --pictures:

    python models/theophylline_report.py --pictures output
"""

from torch import exp

import deepnlme as dn
from _script import DATASETS, arguments, compared, heading, options, show, write
from theophylline import Theophylline

OBJECTIVES = """\
To describe the concentration of theophylline in serum after one oral dose, its variability between people, and the
part of body weight in it.

The data are an example of the literature (Boeckmann, Sheiner and Beal 1994); no decision rests on this analysis."""

COMMENTS = {
    "comparison": "A proportional part of the residual error lowers the OFV; the additive part remains, "
    "for three people have a concentration before anything can have been absorbed.",
    "discussion": "Clearance and volume are well determined, absorption less so: many curves have their peak within "
    "the first samples. Weight is scaled by allometry, which is assumed here and not estimated: twelve people of "
    "similar weight neither support nor contradict it.",
}


class Additive(Theophylline):
    """One-compartment oral model; clearance and volume grow with body weight as allometry says. Additive error."""

    exponent_cl = dn.Real(0.75, fixed=True)
    exponent_v = dn.Real(1.0, fixed=True)

    def individual(self, theta, eta, cov):
        size = cov.wt / 70.0
        return dict(
            ka=theta.ka * exp(eta.ka),
            cl=theta.cl * size**theta.exponent_cl * exp(eta.cl),
            v=theta.v * size**theta.exponent_v * exp(eta.v),
        )


class Allometric(Additive):
    """One-compartment oral model scaled to body weight; the residual has an additive and a proportional part."""

    prop_sd = dn.Positive(0.1)

    def observe(self, theta, p, x):
        f = x.central / p.v
        return dict(dv=dn.Normal(f, dn.combined2(f, theta.add_sd, theta.prop_sd)))


def main() -> None:
    args = arguments(__doc__)
    population = dn.read_nonmem(DATASETS / "theophylline" / "data.csv", covariates=["wt"])
    if args.quick:
        population = population[:8]

    heading(f"Theophylline, {args.method.name}")
    fit = dn.fit(Allometric(), population, args.method, options=options())
    print(fit)
    others = {
        "additive error": dn.fit(Additive(), population, args.method, options=options()),
        "without weight": dn.fit(
            Allometric(exponent_cl=0.0, exponent_v=0.0), population, args.method, options=options()
        ),
    }
    fits = {"allometric": fit, **others}
    heading("Side by side")
    show(compared(fits))

    found = {}
    if args.pictures is None:
        print("\nNo report: give the folder to write it into, --pictures output")
    else:
        import matplotlib

        matplotlib.use("Agg")
        from deepnlme.report import report

        args.pictures.mkdir(parents=True, exist_ok=True)
        file = report(
            fit,
            args.pictures / "theophylline_report.html",
            title="Population pharmacokinetics of theophylline",
            author="The gallery of deepnlme",
            objectives=OBJECTIVES,
            comments=COMMENTS,
            excluded=[],
            against=others,
            replicates=100 if args.quick else 1000,
            seed=1,
        )
        found = {"report": str(file.resolve()), "bytes": file.stat().st_size}
        print(f"\nReport: {found['report']} ({found['bytes'] / 1e6:.1f} MB)")
    write(args, fit, fits, **found)


if __name__ == "__main__":
    main()
