"""The report of `heliograph doctor`: in words, and as numbers for a program."""

from dataclasses import asdict, dataclass
from typing import Any

from heliograph.checkpoint import default_cache, find_local, read_folder
from heliograph.doctor.look import absent_model, found_model, this_cpu, this_software
from heliograph.doctor.parts import Cpu, ModelReport, Software, num_parameters
from heliograph.doctor.words import machine_lines, model_lines, software_lines
from heliograph.engine.machine import Machine, this_machine
from heliograph.engine.plan import Plan, name_of


@dataclass(frozen=True)
class DoctorReport:
    """All that `heliograph doctor` says."""

    software: Software
    cpu: Cpu
    machine: Machine
    model: ModelReport

    def lines(self) -> list[str]:
        """The report in plain words, a line each."""
        return [
            *software_lines(self.software),
            *machine_lines(self.cpu, self.machine),
            *model_lines(self.model, self.machine),
        ]

    def as_json(self) -> dict[str, Any]:
        """The report as numbers, strings, lists and tables; sizes are bytes."""
        model = self.model
        return {
            "software": asdict(self.software),
            "cpu": asdict(self.cpu) | {"num_cores": self.machine.num_cores},
            "machine": asdict(self.machine) | {"host_free_bytes": self.machine.host_free_bytes},
            "model": {
                "name": model.name,
                "path": None if model.path is None else str(model.path),
                "is_random": model.is_random,
                "size": None if model.needs is None else [model.needs.work.height, model.needs.work.width],
                "num_parameters": None if model.needs is None else num_parameters(model.needs),
                "plans": [_plan_json(plan) for plan in model.plans],
                "chosen": None if model.chosen is None else _plan_json(model.chosen),
                "problem": model.problem,
                "runners": [asdict(runner) for runner in model.runners],
            },
        }


def doctor_report(model: str = "tiny", height: int | None = None, width: int | None = None) -> DoctorReport:
    """Look at the software, the machine and a model.

    Args:
        model: `tiny`, a folder, or a hub id. A released model that was not downloaded is judged by its known numbers.
        height: pixels of the video to plan for; None is what the model was trained at.
        width: likewise.

    Raises:
        CheckpointError: there is no such model here and it is no hub id, or its folder is damaged.
        UserError: the model cannot make a video of this size.
    """
    path = find_local(model)
    machine = this_machine(path or next(p for p in default_cache().parents if p.is_dir()))
    asked = height, width
    return DoctorReport(
        software=this_software(machine),
        cpu=this_cpu(),
        machine=machine,
        model=found_model(model, read_folder(path), asked, machine) if path else absent_model(model, asked, machine),
    )


def _plan_json(plan: Plan) -> dict[str, Any]:
    """The plan with its dtype as a name and what it lacks in words and numbers."""
    return asdict(plan) | {"dtype": name_of(plan.dtype), "fits": plan.fits, "obstacle": plan.obstacle}
