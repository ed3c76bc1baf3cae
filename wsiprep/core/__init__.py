"""What every stage speaks: types, contracts, settings, errors, registries, reports.

Nothing here knows a stage, and nothing here imports torch, Zarr or a slide library.
"""
