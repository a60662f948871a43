"""Python functions in, cascades out."""
