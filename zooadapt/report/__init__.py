"""What people look at: tables, progress, failures, and the mirror's page."""
