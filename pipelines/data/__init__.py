"""What the data steps share: records, checks, features, snapshots."""
