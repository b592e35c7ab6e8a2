"""What runs a graph: OpenVINO, ONNX Runtime; picked, and checked against torch."""
