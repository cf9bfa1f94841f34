"""The routes of the annotation app, a file for each kind."""
