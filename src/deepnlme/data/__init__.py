"""Data: records, subjects, populations, doses, and the reader of NONMEM files."""

from deepnlme.data.nonmem import read_nonmem
from deepnlme.data.population import Population
from deepnlme.data.records import Records
from deepnlme.data.regimen import Dose, Regimen
from deepnlme.data.subject import Subject
from deepnlme.data.tensors import padded_series

__all__ = ["Dose", "Population", "Records", "Regimen", "Subject", "padded_series", "read_nonmem"]
