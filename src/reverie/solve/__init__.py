"""Solvers, grids and the loops that run them."""

from reverie.solve import grids
from reverie.solve.multistep import DPMpp
from reverie.solve.onestep import DDIM, DDPM
from reverie.solve.plan import Plan, Row, Solver, State, TableSolver, Walk, plain
from reverie.solve.rungekutta import Euler, Heun
from reverie.solve.sampling import Step, iterate, sample

__all__ = [
    "DDIM", "DDPM", "DPMpp", "Euler", "Heun", "Plan", "Row", "Solver", "State", "Step", "TableSolver", "Walk", "grids", "iterate",
    "plain", "sample",
]  # fmt: skip
