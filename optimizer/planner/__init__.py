"""What a plan's throughput, memory and finish time will be, before it has run.

Kernels' measured shares -> a step (step) -> a full batch, a wave, a job (steady_state) -> a row's answer (predict),
with few constants (calibration) and bounds (interval). None of it was validated by running this project's own engine
on the GPUs it speaks of: the measured rows are others'.
"""
