"""The what-if dashboard: a thin Streamlit app over the public names of ``simulator``.

``app`` draws the frame and the page; ``choice`` is the scenario that the sidebar and the address
hold; ``background`` simulates; ``following`` draws what is known while it does.
"""
