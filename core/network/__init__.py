"""The equivariant network that predicts Hamiltonian blocks."""
