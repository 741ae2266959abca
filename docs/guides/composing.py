"""Three guides at once, cell by cell: ``python composing.py RUN`` draws composed.png with a run that draws digits by label."""

# %% model
import sys
from pathlib import Path

import torch

import reverie as rv
from reverie.guide import FreeDoM, energies
from reverie.guide.freedom import Relative
from reverie.inverse import operators
from reverie.learn import grid
from reverie.solve import DDPM

torch.set_num_threads(1)
run, *out = sys.argv[1:]
denoise = rv.load(run)
digits = rv.data.load("mnist5k", "test")
some = digits.batch(range(len(digits)))
images, labels = some.x, some.label
target = images[labels == 4][:1]

# %% label
guided = rv.guide.cfg(denoise, 2.0)
cond = rv.Cond(label=9)
nines = rv.sample(guided, 8, cond, DDPM(), steps=50)

# %% measurement
top = torch.zeros(28, 28)
top[:12] = 1
half = operators.Inpaint(top)
measured = rv.inverse.pigdm(guided, half, half(target))
halves = rv.sample(measured, 8, cond, DDPM(), steps=50)

# %% energy
thin = FreeDoM(DDPM(), lambda x: x.mean((1, 2, 3)) + 1.0, Relative(0.1))
thinner, cost = rv.sample(measured, 8, cond, thin, steps=50, report=True)
print(f"{cost.evaluations:.0f} evaluations and {cost.backwards:.0f} passes back a picture")

# %% instead
lines = FreeDoM(DDPM(), energies.edges(target), Relative(0.2))
drawn = rv.sample(guided, 8, cond, lines, steps=50)

# %% what came out
for name, pictures in (("label", nines), ("measurement", halves), ("energy", thinner), ("lines", drawn)):
    apart = float(operators.consistency(half, half(target), pictures).mean())
    print(f"{name}: ink {float(pictures.mean()) + 1.0:.3f}, {apart:.3f} rms from the measurement")
rows = [half(target).expand(8, -1, -1, -1), nines, halves, thinner, drawn]
grid.save(grid.tile(torch.cat(rows), 8), Path(out[0] if out else "composed.png"))
