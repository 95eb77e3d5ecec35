"""What is kept on disk: run directories, whole-or-nothing files, evaluations. Torch-free."""
