"""One file per data set: its official files become a manifest, class names and flip pairs."""
