"""The libraries that run exported files, one file each."""
