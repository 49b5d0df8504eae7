"""What is asked of the process: threads and seeds, memory, interruptions, held folders."""
