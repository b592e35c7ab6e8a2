"""What a live server needs of the platform: packages from MLflow, features from Feast, rows in the SQL store."""
