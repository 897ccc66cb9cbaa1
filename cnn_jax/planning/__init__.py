"""Planning: the training step compiled for a slice of TPUs that need not be there.

`topology` describes the slice, `step` traces the step that a run would take, `compiled`
compiles it (or takes what the compiler said before from a cache), `hlo`, `collectives`
and `layers` read the program, and `plan` puts it together; `search` compares plans.

Nothing here runs on a device, and the numbers are the compiler's estimates.
"""
