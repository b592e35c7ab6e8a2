"""The gRPC door: the same protocol over grpc.aio."""
