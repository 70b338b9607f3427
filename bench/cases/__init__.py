"""One module per subject, named like its op file; importing it registers its cases."""
