"""What every package may use: files, processes, memory, errors."""
