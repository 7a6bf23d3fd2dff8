"""What people teach the service, one comparison at a time."""
