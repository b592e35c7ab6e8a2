"""The REST door: Open Inference Protocol, a plain way in for a photo, and the pages."""
