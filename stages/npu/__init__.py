"""CANN's tools, called as the guide calls them."""
