"""What is kept and sent: run folders, and their copies in MLflow."""
