"""Who is told what happens in a run: the terminal, the plain record, the figures, MLflow, TensorBoard."""
