"""Pictures: sections with outlines, word occlusion."""
