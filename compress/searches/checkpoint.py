"""What a search has tried so far, in a JSON file that an interrupted run goes on from."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compress.errors import OptionError
from compress.files import write_file
from compress.searches.problem import Problem

_VERSION = 1
Entry = tuple[list[Any], float]


@dataclass(frozen=True)
class Checkpoint:
    """The file (None: nothing is kept) and what the run is about: seed, candidates, model, data and budget."""

    path: Path | None
    about: dict[str, int | str]

    @classmethod
    def of(cls, problem: Problem) -> "Checkpoint":
        """Return the checkpoint of a problem; losses are as good as a fingerprint of model and data."""
        effort, digest = problem.effort, hashlib.sha256()
        for name, loss in problem.losses.items():
            digest.update(name.encode() + loss.astype(float).tobytes() + problem.allowed[name].astype(int).tobytes())
        model = digest.hexdigest()[:16]
        budgets = json.dumps([asdict(budget) for budget in problem.budgets], sort_keys=True)
        budget = hashlib.sha256(budgets.encode()).hexdigest()[:16]
        about = {"version": _VERSION, "seed": effort.seed, "candidates": effort.candidates}
        return cls(effort.checkpoint, {**about, "model and data": model, "budget": budget})

    def read(self) -> list[Entry]:
        """Return what was tried, nothing where there is no file; OptionError for a file of another run."""
        if self.path is None or not self.path.exists():
            return []
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            about = {key: content[key] for key in self.about}
            tried = [(entry["latent"], float(entry["fitness"])) for entry in content["tried"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OptionError(f"{self.path} is not a checkpoint of a search: delete it or name another file") from error
        for key, value in self.about.items():
            if about[key] != value:
                raise OptionError(f"{self.path} is of a search with another {key}: delete it or name another file")
        return tried

    def write(self, tried: Sequence[Entry]) -> None:
        """Write all that was tried; the file is whole at any moment."""
        if self.path is None:
            return
        content = {**self.about, "tried": [{"latent": latent, "fitness": fitness} for latent, fitness in tried]}
        write_file(json.dumps(content).encode("utf-8"), self.path)
