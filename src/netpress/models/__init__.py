"""Networks: shared blocks, one family a file, a registry, and ways to name their layers and edit their structure."""
