"""`mlip bench tensor-products`: what bilinear products of degrees cost, and what they express."""
