"""The report as one web page that needs nothing else: who sets it, who draws, and who says what is on it."""
