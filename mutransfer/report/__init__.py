"""What people look at: pictures of the checks."""
