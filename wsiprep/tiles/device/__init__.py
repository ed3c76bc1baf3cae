"""Patches made on the device that encodes them; `stream.py` is the door. torch is imported late."""
