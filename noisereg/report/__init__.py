"""Pictures of tables and runs, and the report's page."""
