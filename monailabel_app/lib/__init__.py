"""The MONAI Label app, module by module."""
