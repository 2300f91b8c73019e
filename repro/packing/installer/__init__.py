"""The script at a bundle's root, in modules that use nothing but the standard library of Python 3.9.

`repro.packing.script` joins them into one file, install.py. Annotations are spelled for 3.9 without the __future__
import, so that an older Python gets as far as the message that says which one is needed.
"""
