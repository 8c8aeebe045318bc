"""Distribution over MPI ranks: who owns an atom, and how its features reach others."""
