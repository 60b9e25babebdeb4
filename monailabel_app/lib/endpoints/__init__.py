"""HTTP routes: what MONAI Label answers, guarded and amended, and the viewer."""
