"""`wsiprep convert`: a command for each format."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer

from wsiprep.cli._flags import settings_command
from wsiprep.cli._guard import guarded
from wsiprep.tasks.convert import formats
from wsiprep.tasks.convert_config import ConvertConfig

__all__ = ["app"]

app = typer.Typer(
    name="convert",
    help="Turn texts on slides, of public sets or your own, into one manifest (JSON Lines).",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

EPILOG = (
    "Exit codes: 0 done; 1 a store that cannot be read; 2 usage, or a file or record that cannot "
    "be used; 3 environment; 130 interrupted (nothing was written); 70 a bug."
)


def _command(name: str, model: type[ConvertConfig]) -> Callable[..., None]:
    @settings_command(model)
    def convert(cfg: ConvertConfig) -> None:
        from wsiprep.cli._console import print_json
        from wsiprep.tasks.convert_text import convert_text

        report = convert_text(name, cfg).report
        if cfg.converted.json_:
            print_json(report)
        else:
            _print(report)

    return convert


def _register() -> None:
    builtin = formats.builtin_names()
    for name in formats.names():
        # Formats of other packages are not imported before they are asked for.
        plugin = formats.load(name) if name in builtin else None
        about = (plugin.__doc__ or "") if plugin else "Of another package."
        command = guarded(_command(name, getattr(plugin, "Config", ConvertConfig)))
        app.command(name.replace("_", "-"), help=about.split("\n", 1)[0], epilog=EPILOG)(command)


_register()


def _print(report: dict[str, Any]) -> None:
    from wsiprep.cli._console import stderr, stdout
    from wsiprep.train.language.left_out import few

    def say(line: str) -> None:
        stdout().print(line, markup=False, highlight=False)

    for text in report["bad_records"]:
        stderr().print(f"left out: {text}", markup=False, highlight=False)
    for file in report["files"]:
        if "columns" in file:
            say(_read_as(file))
    left = report["left_out"]
    more = left["bad"] - len(report["bad_records"])
    if more > 0:
        stderr().print(f"left out: {more} more records", markup=False, highlight=False)
    for split, n in report["splits"].items():
        say(
            f"{split:5} {n['samples']:>7,} samples, {n['slides']:,} slides, "
            f"{n['patients']:,} patients"
        )
    if left["bad"]:
        say(f"left out: {left['bad']:,} records that cannot be used")
    if left.get("no_store"):
        say(f"left out: {left['no_store']:,} samples of slides without a store")
    if left.get("no_features"):
        say(f"left out: {left['no_features']:,} samples of slides whose stores have no features")
    if report["stores_without_features"]:
        say(f"stores without features: {few(report['stores_without_features'])}")
    if left.get("patient_is_held_out"):
        say(f"left out: {left['patient_is_held_out']:,} samples of patients held out elsewhere")
    published = report["published_test"]
    if published is not None:
        say(
            f"as published, {published['shared_slides']:,} of {published['slides']:,} test slides "
            f"and {published['shared_patients']:,} of {published['patients']:,} test patients "
            "are in training files too"
        )
        if report["split"] == "given" and published["shared_patients"]:
            say("these splits are kept: scores on them are not of unseen patients")
    elif report["published"] and "train" in report["given_splits"]:
        say("no published test files were among these: what they share is not known")
    for split in report["empty_splits"]:
        say(f"no patient fell into {split}: there are few; raise its share, or try another --seed")
    say(f"wrote {report['samples']:,} samples to {report['out']}")
    say(f"data sha256 {report['data_sha256']}")


def _read_as(file: dict[str, Any]) -> str:
    """Which columns a CSV file was read by, and whence patients are known."""
    columns = "; ".join(f"{name}: {', '.join(of)}" for name, of in file["columns"].items())
    known = {
        "column": "by their column",
        "barcode": "by the first 12 characters of TCGA barcodes",
        "case": "not known, each case counts as one",
        "slide": "not known, each slide counts as one",
    }
    whose = "; ".join(f"{known[how]} ({n:,} samples)" for how, n in file["patients"].items())
    return f"{file['path']}: columns {columns}. Patients {whose}."
