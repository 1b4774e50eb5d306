"""Programs that run in a pod or in a container: handed over as text, with nothing but their own images to import."""
