"""Plain FastAPI, one process for each core: `uvicorn benchmarks.peers.fastapi_app:app --workers 2`."""

from typing import Annotated

from fastapi import FastAPI, File

from benchmarks.peers.classifying import load

app = FastAPI()
classify = load()


@app.post("/predict")
async def predict(file: Annotated[bytes, File()]) -> dict[str, str]:
    """A photo as a form's file, as FastAPI's manual takes files; the work is done on the event loop."""
    return {"label": classify([file])[0]}


@app.post("/predict-in-threads")
def predict_in_threads(file: Annotated[bytes, File()]) -> dict[str, str]:
    """The same in the thread pool. Which of the two is quicker depends on the machine: both are measured."""
    return {"label": classify([file])[0]}
