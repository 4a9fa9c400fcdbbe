"""Write a page that runs networks in a browser."""
