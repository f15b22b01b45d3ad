"""Pure functions of the method: noise path, schedules, pyramid, solvers and guidance. No modules, no state."""
