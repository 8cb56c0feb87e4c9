"""Cards, packages, the registry, the store and the architectures; one folder of data for each bundled model."""
