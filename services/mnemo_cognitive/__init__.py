"""cognitive: works on memories while nobody waits."""
