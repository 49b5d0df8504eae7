"""Where recipes run that stand side by side, such as the members of a sweep: in this process, or in several."""
