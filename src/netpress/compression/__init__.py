"""What makes a trained network smaller. Each stage is a file named after its kind: prune, fold, quantize."""
