"""Run exported files: one module per runtime, and the table of formats."""
