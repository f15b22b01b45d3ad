"""What this machine can run and why: the report of `heliograph doctor`. Loads no weights and downloads nothing."""

from heliograph.doctor.look import this_cpu
from heliograph.doctor.parts import Kernel
from heliograph.doctor.report import DoctorReport, doctor_report

__all__ = ["DoctorReport", "Kernel", "doctor_report", "this_cpu"]
