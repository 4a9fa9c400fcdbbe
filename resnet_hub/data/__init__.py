"""Read labelled images, and augment them."""
