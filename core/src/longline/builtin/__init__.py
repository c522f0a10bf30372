"""What the core itself answers to hooks, by the same door as plugins: default answers, the local log, the console."""
