"""Zip and tar archives unpacked under limits on count, size, ratio and names."""
