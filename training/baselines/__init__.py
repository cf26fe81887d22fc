"""The other systems of the paper's table, trained and measured exactly as the ensemble is."""
