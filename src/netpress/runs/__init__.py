"""Running recipes: plans, stages in order, jobs and who runs them, sweeps."""
