"""What runs through the pipeline: programs and sources, what each step gives, and who looks at it."""
