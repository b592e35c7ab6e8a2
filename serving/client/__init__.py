"""A small Python client: photos in, classes out.

from serving.client import Client

with Client("http://127.0.0.1:8000") as client:
    print(client.classify(Path("shirt.jpg"), sender="41").label)
"""

from serving.channels import Unreachable
from serving.client.answers import Answer
from serving.client.asynchronous import AsyncClient
from serving.client.synchronous import Client
from serving.problems import Problem

__all__ = ["Answer", "AsyncClient", "Client", "Problem", "Unreachable"]
