"""Run the pods of this node: what to do next (`decide`), how they are (`status`), and one worker for each."""
