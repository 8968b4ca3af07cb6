"""Other ways of paying for the same, and where two of them cost the same."""
