"""The workflow's configuration, sources, layout, recipes and display."""
