"""The tabs of the managers' page, and what their handlers share."""
