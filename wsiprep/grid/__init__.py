"""Placing patches: resolution plan, lattice, tissue share. `make_grid` is the door."""

from wsiprep.core.lazy import lazy_names

__getattr__, __all__ = lazy_names(
    __name__,
    {
        "GridConfig": "config",
        "grid_name": "build",
        "make_grid": "build",
        "make_plan": "plan",
        "export_coords": "export",
        "grid_key": "build",
    },
)
