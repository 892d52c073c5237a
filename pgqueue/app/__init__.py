"""The application: PgQueue, and what hangs on it. It joins the rooms below and is what users hold."""
