"""Plain FastAPI, one process for each core: `uvicorn benchmarks.peers.fastapi_app:app --workers 2`."""

from typing import Annotated

from fastapi import FastAPI, File

from benchmarks.peers.classifying import load

app = FastAPI()
classify = load()


@app.post("/predict")
async def predict(file: Annotated[bytes, File()]) -> dict[str, str]:
    """A photo as a form's file, as FastAPI's manual takes files.

    The work is done right here: with a process for each core that was quicker than the thread pool, which `def`
    instead of `async def` would take.
    """
    return {"label": classify([file])[0]}
