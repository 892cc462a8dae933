"""What the workflow is made of: configuration, sources, deviations."""
