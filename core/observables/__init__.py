"""What is read off a spectrum: gap, band path, pictures."""
