"""The files that a run can leave behind, one module a format; `sinks` opens the ones that are asked for."""
