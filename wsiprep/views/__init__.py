"""Pictures for people: the tissue overlay of a slide, heat maps, masks compared, contact sheets."""

from wsiprep.core.lazy import lazy_names

__getattr__, __all__ = lazy_names(
    __name__,
    {
        "SheetCell": "contact_sheet",
        "draw_agreement": "agreement",
        "draw_heat_map": "heat_map",
        "draw_sheet": "contact_sheet",
        "encode_jpeg": "overlay",
        "fit_picture": "contact_sheet",
        "tissue_overlay": "overlay",
    },
)
