"""The simulated deployment as an OpenAI-compatible server, on the wall's clock."""
