"""Solvers, grids and the loops that run them."""

from reverie.solve import grids
from reverie.solve.adaptive import RK45
from reverie.solve.bound import VariationalBound, variational_bound
from reverie.solve.invert import RoundTrip, ShiftedDDIM, invert, round_trip
from reverie.solve.latent import initial, slerp
from reverie.solve.likelihood import bits_per_dimension, dequantise, log_prob
from reverie.solve.multistep import DPMpp
from reverie.solve.onestep import DDIM, DDPM
from reverie.solve.plan import Plan, Row, Solver, State, TableSolver, Walk, plain
from reverie.solve.rungekutta import Euler, Heun
from reverie.solve.sampling import Step, iterate, sample

__all__ = [
    "DDIM",
    "DDPM",
    "RK45",
    "DPMpp",
    "Euler",
    "Heun",
    "Plan",
    "RoundTrip",
    "Row",
    "ShiftedDDIM",
    "Solver",
    "State",
    "Step",
    "TableSolver",
    "VariationalBound",
    "Walk",
    "bits_per_dimension",
    "dequantise",
    "grids",
    "initial",
    "invert",
    "iterate",
    "log_prob",
    "plain",
    "round_trip",
    "sample",
    "slerp",
    "variational_bound",
]  # fmt: skip
