"""Exported files: writing, checking, quantizing and running them.

Imports `hub` and the rooms above it.
"""

import os

# onnxruntime's builds otherwise send usage events to Microsoft, and write a device identifier to
# the home directory. It reads this when it is imported; set it to 0 to allow that.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
