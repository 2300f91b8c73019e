"""A run to look at: every utterance with its alignment, what the network heard over time, and its sound.

The page is one file, or a folder of files for a large run. It needs no network; its one script is named by its hash in
the page's policy, and everything that a stage wrote is shown as text.
"""
