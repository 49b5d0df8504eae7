"""What is asked of the process: threads and seeds, the terminal, memory, interruptions."""
