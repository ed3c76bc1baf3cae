"""The tools that wsiprep is compared with: versions, environments, and how a run is started."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["PEERS", "WSIPREP", "Runs", "Tool", "ToolFailed", "found", "install"]


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool, its script in `peer_runs/` and its environment.

    Attributes:
        name: As people know it.
        key: Of the folder of its environment and of `run_<key>.py`.
        pins: What pip installs; the first is the tool.
        takes_corners: Whether it encodes the very patches that it is given.
        no_tissue: Why it cannot find tissue here, or None if it can.
        readers: What --workers counts for it.
        least: And the smallest number that it can have.
    """

    name: str
    key: str
    pins: tuple[str, ...]
    takes_corners: bool = True
    no_tissue: str | None = None
    readers: str = "workers"
    least: int = 0


WSIPREP = Tool("wsiprep", "wsiprep", ("wsiprep",), takes_corners=False, readers="threads", least=1)
PEERS = (
    Tool(
        "AtlasPatch",
        "atlaspatch",
        # It wants the OpenSlide library from the system; this wheel brings it.
        ("atlas-patch==1.1.0", "openslide-bin==4.0.1.2"),
        no_tissue="it finds tissue with a SAM2 checkpoint from a hub",
    ),
    Tool("LazySlide", "lazyslide", ("lazyslide==0.13.0", "wsidata==0.12.0")),
    Tool(
        "slide2vec",
        "slide2vec",
        ("slide2vec==7.1.4", "hs2p==6.1.0"),
        takes_corners=False,
        # It reads with cuCIM and itself takes cores / threads loader processes (at least one).
        readers="cuCIM threads a loader",
        least=1,
    ),
)


class ToolFailed(Exception):
    """A tool cannot be compared.

    Attributes:
        detail: Its last words; may name paths, so it is printed and not kept.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Runs:
    """A tool with one number of workers."""

    tool: Tool
    python: Path
    workers: int
    version: str

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.tool.name} ({self.workers} {self.tool.readers})"

    def act(self, action: str, folder: Path) -> dict[str, Any]:
        """Start its script in a fresh process and read what it left.

        Raises:
            ToolFailed: it ended with an error.
        """
        script = Path(__file__).parent / "peer_runs" / f"run_{self.tool.key}.py"
        env = dict(os.environ)
        if self.tool is not WSIPREP:  # nothing of this environment leaks into the other
            env = {k: v for k, v in env.items() if not k.startswith("PYTHON")}
        env |= {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "PYTHONNOUSERSITE": "1"}
        # Two threads for each patch's small tensors wait for each other, on a busy machine for
        # milliseconds: it would be the others who pay.
        env["OMP_NUM_THREADS"] = "1"
        done = subprocess.run(
            [str(self.python), str(script), action, str(folder)],
            capture_output=True,
            text=True,
            env=env,
            check=False,
        )
        left = folder / f"{action}.json"
        if done.returncode or not left.is_file():
            raise ToolFailed(
                f"its {action} ended with {done.returncode}", _last(done.stderr or done.stdout)
            )
        return dict(json.loads(left.read_text()))


def found(tool: Tool, envs: Path | None, own_tissue: bool) -> tuple[Path, str]:
    """Interpreter and version of a tool.

    Raises:
        ToolFailed: says why it cannot be compared.
    """
    if own_tissue and tool.no_tissue:
        raise ToolFailed(tool.no_tissue)
    if envs is None:
        raise ToolFailed("no --envs given")
    python = envs.absolute() / tool.key / "bin" / "python"
    if not python.is_file():
        raise ToolFailed(f"no environment '{tool.key}' in --envs", "--install makes it")
    package = tool.pins[0].split("==")[0]
    said = subprocess.run(
        [str(python), "-c", f"import importlib.metadata as m; print(m.version('{package}'))"],
        capture_output=True,
        text=True,
        check=False,
    )
    if said.returncode:
        raise ToolFailed(f"{package} is not in its environment", _last(said.stderr))
    return python, said.stdout.strip()


def install(tool: Tool, envs: Path) -> None:
    """Make `envs/<key>` unless it is there; of a tool that does not install nothing stays."""
    home = envs.absolute() / tool.key
    if (home / "bin" / "python").is_file():
        return
    print(f"{tool.name}: installing {' '.join(tool.pins)}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", *tool.pins]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.rmtree(home)
        print(f"{tool.name} does not install: {_last(done.stderr)}")


def _last(said: str) -> str:
    return (said.strip() or "it said nothing").splitlines()[-1]
