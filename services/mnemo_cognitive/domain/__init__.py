"""What cognitive means: jobs, and finding memories that say the same."""
