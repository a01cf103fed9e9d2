"""What is computed on: real sets, image folders, transforms, loaders, and the writing of generated
images.
"""
