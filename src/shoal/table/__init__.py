"""The models as columns: keys and index, blocks, manifest, validation, opening."""
