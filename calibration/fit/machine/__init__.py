"""A machine's profile from what ``simulate calibrate`` measured on it."""
