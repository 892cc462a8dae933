"""What two or more programs of the workflow share."""
