"""Two-centre integrals and the operators built from them."""
