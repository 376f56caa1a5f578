"""What recovery is compared with: LangGraph's SQLite checkpointer and DBOS on SQLite, each in processes of its own."""
