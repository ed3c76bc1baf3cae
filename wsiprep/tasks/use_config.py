"""Settings of the commands that use an aligned model: `classify`, `retrieve` and `ground`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from wsiprep.core.config import Settings, flag
from wsiprep.slide.config import SlideConfig
from wsiprep.tasks.output_config import OutputSettings

__all__ = [
    "AskedModelChoice",
    "ClassesConfig",
    "ClassifyConfig",
    "GroundConfig",
    "GroundMethodName",
    "GroundingConfig",
    "ModelChoice",
    "QueryConfig",
    "ResultConfig",
    "RetrieveConfig",
    "SlidesOrStores",
]

GroundMethodName = Literal["attention", "cosine", "occlusion"]


class SlidesOrStores(Settings):
    """Which slides, as stores or as files."""

    panel: ClassVar[str] = "Slides"

    slides: tuple[str, ...] = Field(
        default=(), json_schema_extra=flag(argument=True, metavar="SLIDES|STORES...")
    )
    """Stores (.zarr), output folders of `wsiprep run`, or slides as `wsiprep run` takes them: those
    are embedded first, as the model asks. Where tissue needs settings of its own, do `wsiprep run`
    first."""
    recursive: bool = False
    """Look for slides in sub-folders too."""
    ext: tuple[str, ...] = ()
    """Only slide files with this extension, e.g. svs; may be repeated."""


class AskedModelChoice(Settings):
    """Which model, and how slides are shown to it."""

    panel: ClassVar[str] = "Model"

    model: Path = Field(json_schema_extra=flag("-m"))
    """Output folder of `wsiprep train align`, or one checkpoint of it."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto takes the first of cuda, mps, cpu that is there."""
    max_patches: int | None = Field(default=None, ge=1)
    """Most patches of a slide that the model is shown, spread over the tissue; all by default."""


class ModelChoice(AskedModelChoice):
    """Which model, and how slides are shown to it."""

    weights: Path | None = None
    """Weights file of the patch encoder, for slides that are embedded first."""


class ResultConfig(OutputSettings):
    """Where results go."""

    panel: ClassVar[str] = "Run"

    output: Path = Field(json_schema_extra=flag("-o"))
    """Folder for results, and for the stores of slides that are embedded first."""
    json_: bool = Field(default=False, json_schema_extra=flag("--json"))
    """Print the result as JSON on stdout."""


class ClassesConfig(Settings):
    """Classes in words."""

    panel: ClassVar[str] = "Classes"

    classes: str
    """YAML file, `class: [name or prompt, ...]`, or a set that comes with wsiprep: kidney, lung,
    lymph-node."""
    templates: str | None = None
    """Sentences that names are put into: `pathology` (the default), `none` where the file has whole
    sentences, or a YAML list of sentences with {}. Wins over the file's own."""
    mode: Literal["slide", "patches"] = "slide"
    """slide: the vector of the slide is compared with those of the classes. patches: every patch is
    given its nearest class, and a class scores the share of patches that are its."""


class ClassifyConfig(Settings):
    """Settings of `wsiprep classify`."""

    inputs: SlidesOrStores
    classes: ClassesConfig
    slide: SlideConfig
    model: ModelChoice
    result: ResultConfig


class QueryConfig(Settings):
    """What is looked for."""

    panel: ClassVar[str] = "Query"

    text: tuple[str, ...] = Field(default=(), json_schema_extra=flag("-t"))
    """Look for the slides that fit this text; may be repeated."""
    like: tuple[str, ...] = ()
    """Look for the slides that are like this one, a store or a slide; may be repeated."""
    top: int = Field(default=10, ge=1, json_schema_extra=flag("-k"))
    """Slides listed for each query."""
    index: Path | None = None
    """File of slide vectors, made or added to where SLIDES are given; by default
    index.safetensors in the output folder."""


class RetrieveConfig(Settings):
    """Settings of `wsiprep retrieve`."""

    inputs: SlidesOrStores
    query: QueryConfig
    slide: SlideConfig
    model: ModelChoice
    result: ResultConfig


class GroundingConfig(Settings):
    """What is looked for in slides, and how it is shown."""

    panel: ClassVar[str] = "Grounding"

    text: tuple[str, ...] = Field(json_schema_extra=flag("-t"), min_length=1)
    """What to find, in words; may be repeated."""
    method: GroundMethodName | None = None
    """attention: how the text spreads over regions and patches; cosine: how near each patch or
    region is to it; occlusion: how much less the slide fits it without the region (slow). By
    default attention, or cosine where the model has learned none."""
    top: float = Field(default=0.05, gt=0, le=1)
    """Share of the patches, the highest ones, that is outlined for each text."""
    store: bool = True
    """Write raw scores into the slide's store."""
    geojson: bool = True
    """Write outlines of the highest patches, and every patch with its scores, as GeoJSON for
    QuPath."""
    picture: bool = True
    """Draw a heat map over the slide for every text."""

    @model_validator(mode="before")
    @classmethod
    def _texts_say_something(cls, values: Any) -> Any:
        texts = values.get("text") if isinstance(values, dict) else None
        if isinstance(texts, (tuple, list)):
            if any(not str(text).strip() for text in texts):
                raise ValueError("a text is empty")
            if len(set(texts)) < len(texts):
                raise ValueError("a text is given twice")
        return values


class GroundConfig(Settings):
    """Settings of `wsiprep ground`."""

    inputs: SlidesOrStores
    grounding: GroundingConfig
    slide: SlideConfig
    model: ModelChoice
    result: ResultConfig
