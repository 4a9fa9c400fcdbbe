"""What every room uses: errors, files, the client of the Hub, processes, pictures."""
