"""ASE atoms and files <-> structures."""
