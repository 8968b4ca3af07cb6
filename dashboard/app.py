"""The frame of every page: the navigation above, the scenario in the sidebar."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from dashboard import compared, look, session, sidebar
from simulator import UserError

# File in ``views``, title and icon of every page, in the order of the navigation.
PAGES = (
    ("what_if", "What-if", ":material/tune:"),
    ("compare", "Compare", ":material/compare_arrows:"),
    ("roofline", "Roofline", ":material/roofing:"),
    ("capacity", "Capacity", ":material/savings:"),
    ("fleet", "Fleet", ":material/lan:"),
    ("calibration", "Calibration", ":material/straighten:"),
    ("trace", "Trace", ":material/timeline:"),
)  # fmt: skip

# A file of ours: the browser would fetch an icon by name from the network.
ICON = str(Path(__file__).with_name("icon.svg"))


def main() -> None:
    """Draws the app."""
    st.set_page_config(page_title="servecast", page_icon=ICON, layout="wide")
    pages = [
        st.Page(
            f"views/{file}.py", title=title, icon=icon, url_path=file.replace("_", "-"),
            default=file == PAGES[0][0],
        )
        for file, title, icon in PAGES
    ]  # fmt: skip
    page = st.navigation(pages, position="top")
    try:
        session.follow_address()
        session.choice()
        compared.entries()
    except UserError as error:
        look.wrong(error)
        if st.button("Start from the default scenario"):
            session.start_over()
            st.rerun()
        st.stop()
    sidebar.draw()
    session.write_address()
    compared.write_address()
    page.run()


main()
