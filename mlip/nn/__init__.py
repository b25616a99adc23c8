"""Parts of models: radial functions, linear maps, repulsion; and the derivatives of energies."""
