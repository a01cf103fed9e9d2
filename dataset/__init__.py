"""Real data sets, image folders and lists, transforms, loaders, and folders of generated images."""
