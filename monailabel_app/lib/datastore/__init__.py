"""Images and labels: a folder, or a PACS over DICOMweb."""
