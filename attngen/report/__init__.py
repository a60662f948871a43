"""What people look at: derivations, resources, accuracy, tiles of masks."""
