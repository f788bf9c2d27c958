"""Conversion of any readable adapter to any format: reading, writing, and the comparison that admits the result."""
