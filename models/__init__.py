"""Cards, the registry, the store, import and export, architectures; one folder a bundled model."""
