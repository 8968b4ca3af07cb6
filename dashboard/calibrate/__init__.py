"""The parts of the page Calibration: how far off predictions are, where figures come from, and an
engine fitted to one's own servers."""
