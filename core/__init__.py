"""Physics on one domain: structure, basis, integrals, network, observables, files. No MPI."""
