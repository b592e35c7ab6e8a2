"""What the model steps share: MLflow runs and versions, packages, what was judged and measured."""
