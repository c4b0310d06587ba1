"""A file of one's own questions: its rows, what its answers are, and how it is split (`lab.data.sets.questions`)."""
