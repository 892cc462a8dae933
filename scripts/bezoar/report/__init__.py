"""Sections of the report and their templates."""
