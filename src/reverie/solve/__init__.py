"""Solvers, grids and the loops that run them."""

from reverie.solve import grids, walks
from reverie.solve.adaptive import RK45
from reverie.solve.auto import NAMED, named
from reverie.solve.bound import VariationalBound, variational_bound
from reverie.solve.calibrate import Calibrated, calibrate
from reverie.solve.corrector import Corrector
from reverie.solve.genie import GENIE
from reverie.solve.invert import RoundTrip, ShiftedDDIM, invert, round_trip
from reverie.solve.iterating import Step, iterate
from reverie.solve.langevin import AnnealedLangevin, Langevin
from reverie.solve.latent import initial, slerp
from reverie.solve.likelihood import bits_per_dimension, dequantise, log_prob
from reverie.solve.maps import DDIMStep, GaussianMap
from reverie.solve.multistep import DEIS, DPMpp, Multistep, UniPC
from reverie.solve.onestep import DDIM, DDPM
from reverie.solve.plan import Plan, Row, Solver, State, TableSolver, Walk, plain
from reverie.solve.rungekutta import Churn, DPMpp2S, Euler, Heun
from reverie.solve.sampler import Leaps, Sampler
from reverie.solve.sampling import Report, sample
from reverie.solve.stochastic import EulerMaruyama, SDEDPMpp, Stochastic

__all__ = [
    "DDIM",
    "DDPM",
    "DEIS",
    "GENIE",
    "NAMED",
    "RK45",
    "AnnealedLangevin",
    "Calibrated",
    "Churn",
    "Corrector",
    "DDIMStep",
    "DPMpp",
    "DPMpp2S",
    "Euler",
    "EulerMaruyama",
    "GaussianMap",
    "Heun",
    "Langevin",
    "Leaps",
    "Multistep",
    "Plan",
    "Report",
    "RoundTrip",
    "Row",
    "SDEDPMpp",
    "Sampler",
    "ShiftedDDIM",
    "Solver",
    "State",
    "Step",
    "Stochastic",
    "TableSolver",
    "UniPC",
    "VariationalBound",
    "Walk",
    "bits_per_dimension",
    "calibrate",
    "dequantise",
    "grids",
    "initial",
    "invert",
    "iterate",
    "log_prob",
    "named",
    "plain",
    "round_trip",
    "sample",
    "slerp",
    "variational_bound",
    "walks",
]  # fmt: skip
