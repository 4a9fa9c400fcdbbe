"""Write a network as a file for other runtimes."""
