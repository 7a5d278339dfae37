"""An image as a covariate: a digit that nobody types in is read off each person's picture and sets the clearance.

    truth    one compartment, bolus; cl = (1 + digit/3) exp(eta), v = 10 exp(eta), variances 0.02;  error 10 %
    no covariates      cl and v log-normal
    digit known        cl = cl0 + slope * digit, the true form
    image              log cl = network(the 8 x 8 pixels): a convolution, and ten kinds of image that it finds itself

The pictures are scikit-learn's 1797 handwritten digits (E. Alpaydin, C. Kaynak, UCI, CC BY 4.0; they come with that
package). 800 people are fitted, 400 others judge: how far is PRED (eta = 0) from the true curve of a person with that
digit? The measure is the median of |log(PRED / truth)| over all their observations, MdALE.

The network starts from the random effects of the fit without covariates: 50 epochs of plain torch, image -> EBE of
log cl, take seconds. Then `dn.fit` goes on with all parameters by the likelihood.
The image is meant to bring MdALE down to a quarter of that without covariates; on the data seeds 1, 2 and 3 it comes
to 18.3, 17.8 and 14.6 % (with the digit known 6.3, 3.9 and 1.2 %).
"""

import argparse

import numpy as np
import pandas as pd
import torch
from torch import exp, nn

import deepnlme as dn
from _script import arguments, heading, options, show, write
from _simulated import BLUE, VERMILION, picture

TIMES = np.array([1.0, 3.0, 6.0, 10.0, 15.0])
CENTER, SCALE = 5.0, 6.0  # of the pixels, 0 to 16
TARGET = 25.0


class NoCovariates(dn.Model):
    """One compartment, log-normal parameters."""

    cl = dn.Positive(2.0, unit="L/h")
    v = dn.Positive(10.0, unit="L")
    sd = dn.Positive(0.1)
    eta = dn.RandomEffects("cl", "v", omega=0.02)
    dynamics = dn.OneCompartment()

    def clearance(self, theta, cov):
        return theta.cl

    def individual(self, theta, eta, cov):
        return dict(cl=self.clearance(theta, cov) * exp(eta.cl), v=theta.v * exp(eta.v))

    def observe(self, theta, p, x):
        f = x.central / p.v
        return dict(cp=dn.Normal(f, dn.proportional(f, theta.sd)))


class DigitKnown(NoCovariates):
    """The truth."""

    cl = dn.Positive(1.0, unit="L/h")
    slope = dn.Positive(1.0 / 3.0, unit="L/h")

    def clearance(self, theta, cov):
        return theta.cl + theta.slope * cov.digit


def with_image(module: nn.Module, typical: float) -> dn.Model:
    """The model whose clearance is read off the image, starting from a trained module."""

    class Image(NoCovariates):
        cl = None
        encoder = dn.Network(
            module, 64, input_center=CENTER, input_scale=SCALE, output_center=typical, output_scale=1.0,
            prior=dn.L2(1.0),
        )  # fmt: skip

        def clearance(self, theta, cov):
            return exp(theta.encoder(cov.image))

    return Image()


def layers() -> nn.Module:
    """Pixels [batch, 64] -> shares of ten kinds of image -> one number."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 12, 3), nn.ELU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(108, 10), nn.Softmax(1), nn.Linear(10, 1),
    )  # fmt: skip


def data(seed: int, people: int) -> dn.Population:
    """People with an image each, and five concentrations."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise dn.MissingExtraError("scikit-learn", "learning") from None
    found = load_digits()
    chosen = np.random.default_rng(seed).permutation(len(found.target))[:people]
    digits = found.target[chosen]

    def population(values):
        who = range(1, people + 1)
        subjects = [dn.Subject(i, dn.Dose(100.0), (TIMES, values[i - 1]), {"digit": float(digits[i - 1])}) for i in who]
        return dn.Population(subjects).with_tensors(image=found.images[chosen])

    simulated = dn.simulate(DigitKnown(), population([None] * people), seed=seed)
    return population(simulated.values("dv")[0])


def pretrained(images: np.ndarray, target: np.ndarray, epochs: int, seed: int) -> nn.Module:
    """A module trained on image -> target by least squares (AdamW, batches of 32)."""
    torch.manual_seed(seed)
    module, random = layers(), np.random.default_rng([seed, 1])
    x = torch.tensor((images - CENTER) / SCALE, dtype=torch.float32).flatten(1)
    y, batches = torch.tensor(target, dtype=torch.float32), -(-len(target) // 32)
    descent = torch.optim.AdamW(module.parameters(), weight_decay=0.1)
    rate = torch.optim.lr_scheduler.OneCycleLR(descent, 0.01, total_steps=epochs * batches)
    for _ in range(epochs):
        for part in torch.tensor(random.permutation(len(target))).chunk(batches):
            loss = ((module(x[part])[:, 0] - y[part]) ** 2).mean()
            descent.zero_grad()
            loss.backward()
            descent.step()
            rate.step()
    return module


def fit_image(base: dn.Fit, args: argparse.Namespace) -> dn.Fit:
    """The module trained on the random effects of `base`, then everything by the likelihood."""
    images, typical = base.population.tensors["image"], float(np.log(base.estimates["cl"]))
    eta = base.etas()["ETA_cl"].to_numpy()
    module = pretrained(images, eta, 5 if args.quick else 50, args.data_seed)
    with torch.no_grad():
        known = module(torch.tensor((images - CENTER) / SCALE, dtype=torch.float32).flatten(1))[:, 0].numpy()
    start = {n: base.estimates[n] for n in ("v", "sd", "omega[v]")} | {"omega[cl]": float(np.var(eta - known)) + 0.005}
    how = options(covariance=None, optimiser="adam", learning_rate=1e-3, batch_size=100,
                  max_iterations=1 if args.quick else 3)  # fmt: skip
    return dn.fit(with_image(module, typical), base.population, args.method, start=start, options=how)


def distances(fits: dict[str, dn.Fit], people: dn.Population) -> pd.DataFrame:
    """PRED against the true typical curve: median and root mean square of log(PRED / truth)."""
    truth = dn.predict(DigitKnown(), people, eta=np.zeros((len(people), 2)))["PRED"].to_numpy()
    rows = {}
    for name, fit in fits.items():
        off = np.log(fit.predict(people, draws=0)["PRED"].to_numpy() / truth)
        rows[name] = {"MdALE": float(np.median(np.abs(off))), "RMSLE": float(np.sqrt(np.mean(off**2)))}
    table = pd.DataFrame.from_dict(rows, orient="index")
    table["MdALE %"] = 100.0 * table["MdALE"] / table["MdALE"].iloc[0]
    return table


def draw(args: argparse.Namespace, fit: dn.Fit, people: dn.Population) -> None:
    """Clearance read off the images of people whom the fit has not seen."""
    if args.pictures is None:
        return
    images, digit = people.tensors["image"], people.records.covariates["digit"][people.starts[:-1]]
    read = np.exp([float(fit.networks["encoder"](*image.ravel())) for image in images])
    jitter = np.random.default_rng(0).uniform(-0.3, 0.3, len(digit))
    with picture(args, "image_covariate", 2, 2, 0.75) as (left, right):
        left.plot(digit + jitter, read, "o", ms=2, mec="none", mfc=BLUE, alpha=0.6, label="read off the image")
        left.plot(np.arange(10), 1.0 + np.arange(10) / 3.0, "_", color=VERMILION, ms=12, mew=1.5, label="truth")
        left.set(xlabel="Digit", ylabel="Typical clearance [L/h]", xticks=range(10), ylim=(0.0, None))
        for place, i in enumerate(np.arange(15)):
            x, y = 10.0 * (place % 5), 13.0 * (place // 5)
            right.imshow(images[i], cmap="gray_r", extent=(x, x + 8, y + 8, y))
            right.text(x + 4, y + 10.5, f"{1 + digit[i] / 3:.1f} / {read[i]:.1f}", ha="center", va="center", size=6)
        right.set(xlim=(-1, 49), ylim=(38, -1), xticks=[], yticks=[], xlabel="Images; true / read clearance [L/h]")
        right.spines[["left", "bottom"]].set_visible(False)


def main() -> None:
    args = arguments(__doc__, ("focei", "laplace"), simulated=True)
    train, test = (120, 40) if args.quick else (800, 400)
    people = data(args.data_seed, train + test)
    train, test = people[:train], people[train:]
    print(train)
    fits = {"no covariates": dn.fit(NoCovariates(), train, args.method, options=options(covariance=None))}
    fits["image"] = fit_image(fits["no covariates"], args)
    fits["digit known"] = dn.fit(DigitKnown(), train, args.method, options=options(covariance=None))
    heading("Clearance from the image")
    print(fits["image"])

    heading("Population predictions of people whom no fit has seen")
    found = distances(fits, test)
    show(found, 3)
    share = float(found.loc["image", "MdALE %"])
    print(f"\nmeant to be reached: at most {TARGET:.0f} % of the distance without covariates; here {share:.1f} %")
    draw(args, fits["image"], test)
    write(args, fits["image"], fits, data_seed=args.data_seed, distances=found.to_dict("index"), target_percent=TARGET)


if __name__ == "__main__":
    main()
