"""stub"""
from __future__ import annotations
from ..schedule import Schedule
def winograd_cost_s(problem, s, machine):
    return 1.0
def winograd_schedules(problem, machine, limit=48):
    g = problem.forward
    oc = g.out_channels // g.groups; ic = g.in_channels // g.groups
    return [Schedule("gradient_winograd", tile_height=4 if g.rank==2 and g.kernel[0]>1 else 1, tile_width=4 if g.kernel[-1]>1 else 1, points="balanced", tile_out=min(6,oc), tile_in=2*machine.lanes,
      block_out=oc, block_panels=-(-ic//(2*machine.lanes)), block_tiles=4, parts=1, unroll=1, parallel=True)]
