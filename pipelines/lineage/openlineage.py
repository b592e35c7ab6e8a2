"""A generation's chain as OpenLineage run events: pure, the same facts give the same events.

Jobs are the steps, in a namespace named like the registered model. https://openlineage.io/docs/spec/object-model
"""

from collections.abc import Callable, Mapping
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import (
    dataset_type_dataset,
    dataset_version_dataset,
    documentation_job,
    input_statistics_input_dataset,
    job_type_job,
    nominal_time_run,
    output_statistics_output_dataset,
    parent_run,
    processing_engine_run,
    schema_dataset,
    source_code_location_job,
    tags_run,
    test_run,
)

from pipelines.lineage.provenance import DATA_STEPS, Step, Thing, steps_of
from pipelines.recipe import ROOT
from pipelines.settings import Settings

PRODUCER = "urn:classy:lineage:1"
ROOM = uuid5(NAMESPACE_URL, PRODUCER)

ABOUT = {
    "gather": "Fetches one day's photos and the labels that arrived on it.",
    "validate": "Lets good photos of a day through and puts the others into quarantine with a reason.",
    "prepare": "Turns a checked day into canonical images and picture statistics.",
    "snapshot": "Freezes what can be trained and judged on as of a time.",
    "train": "Fits one candidate on one snapshot.",
    "optimize": "Exports a trained candidate to ONNX, checked against the original.",
    "evaluate": "Judges the contender against its opponent on the same held-out rows.",
    "promote": "Makes a judged contender the champion.",
    "rollback": "Puts an earlier generation's model back.",
}
STATUS = {"pass": "pass", "fail": "fail"}
"""Of the judge's findings; one that could not be known counts as skipped."""


def events_of(settings: Settings, found: Mapping[str, Any]) -> list[RunEvent]:
    """START and COMPLETE of each step of the chain, oldest first.

    Args:
        found: what `explain.run` gave.
    """
    made = []
    for step in steps_of(settings, found):
        made += _events(settings, step, found["code"], found["run"]["made_by"])
    return made


def run_id(settings: Settings, job: str, key: str) -> str:
    """The id of a run: the same for the same work, whoever asks and whenever."""
    return str(uuid5(ROOM, f"{settings.model_name}\n{job}\n{key}"))


def _events(settings: Settings, step: Step, code: Mapping[str, Any], made_by: str | None) -> list[RunEvent]:
    return [
        RunEvent(
            eventType=kind,
            eventTime=when,
            producer=PRODUCER,
            run=Run(runId=run_id(settings, step.job, step.key), facets=_run_facets(settings, step, made_by)),
            job=Job(
                namespace=settings.model_name,
                name=step.job,
                facets=_job_facets(step, code["commit"], code.get("repository")),
            ),
            inputs=[_input(thing) for thing in step.inputs if thing.name],
            outputs=[_output(thing) for thing in step.outputs if thing.name] if kind == RunState.COMPLETE else [],
        )
        for kind, when in ((RunState.START, step.started), (RunState.COMPLETE, step.ended))
    ]


def _facet(kind: Callable[..., Any], **fields: Any) -> Any:
    return kind(**fields, producer=PRODUCER)


def _run_facets(settings: Settings, step: Step, made_by: str | None) -> dict[str, Any]:
    facets: dict[str, Any] = {}
    if step.nominal:
        start, end = step.nominal
        facets["nominalTime"] = _facet(nominal_time_run.NominalTimeRunFacet, nominalStartTime=start, nominalEndTime=end)
    if step.parent:
        job, key = step.parent
        facets["parent"] = _facet(
            parent_run.ParentRunFacet,
            run=parent_run.Run(runId=run_id(settings, job, key)),
            job=parent_run.Job(namespace=settings.model_name, name=job),
        )
    tags = [
        tags_run.TagsRunFacetFields(key=name, value=str(value), source="CLASSY")
        for name, value in step.tags.items()
        if value is not None
    ]
    if tags:
        facets["tags"] = _facet(tags_run.TagsRunFacet, tags=tags)
    if made_by and step.job not in DATA_STEPS:
        name, _, version = made_by.partition(" ")
        facets["processing_engine"] = _facet(processing_engine_run.ProcessingEngineRunFacet, name=name, version=version)
    if step.findings:
        facets["test"] = _facet(test_run.TestRunFacet, tests=[_finding(finding) for finding in step.findings])
    return facets


def _finding(finding: Mapping[str, Any]) -> test_run.TestExecution:
    status = STATUS.get(finding["outcome"], "skip")
    return test_run.TestExecution(
        name=finding["gate"], status=status, severity="error", type="gate", description=finding["sentence"]
    )


def _job_facets(step: Step, commit: str | None, repository: str | None) -> dict[str, Any]:
    facets = {
        "jobType": _facet(job_type_job.JobTypeJobFacet, processingType="BATCH", integration="CLASSY", jobType="STEP"),
        "documentation": _facet(
            documentation_job.DocumentationJobFacet, description=ABOUT[step.job], contentType="text/plain"
        ),
    }
    # The commit is the training's; days were brought in by whatever ran then.
    if commit and step.job not in DATA_STEPS and step.job not in ("promote", "rollback"):
        path = f"pipelines/{step.job}.py"
        facets["sourceCodeLocation"] = _facet(
            source_code_location_job.SourceCodeLocationJobFacet,
            type="git",
            url=f"{repository}/blob/{commit}/{path}" if repository else (ROOT / path).as_uri(),
            repoUrl=repository,
            path=path,
            version=commit,
        )
    return facets


def _dataset_facets(thing: Thing) -> dict[str, Any]:
    facets: dict[str, Any] = {
        "datasetType": _facet(dataset_type_dataset.DatasetTypeDatasetFacet, datasetType=thing.kind)
    }
    if thing.version:
        facets["version"] = _facet(dataset_version_dataset.DatasetVersionDatasetFacet, datasetVersion=thing.version)
    if thing.columns:
        fields = [schema_dataset.SchemaDatasetFacetFields(name=name, type=kind) for name, kind in thing.columns]
        facets["schema"] = _facet(schema_dataset.SchemaDatasetFacet, fields=fields)
    return facets


def _sizes(thing: Thing) -> dict[str, int]:
    sizes = {"rowCount": thing.rows, "size": thing.size, "fileCount": thing.files}
    return {name: value for name, value in sizes.items() if value is not None}


def _input(thing: Thing) -> InputDataset:
    sizes = _sizes(thing)
    counted = input_statistics_input_dataset.InputStatisticsInputDatasetFacet
    return InputDataset(
        namespace=thing.namespace,
        name=thing.name,
        facets=_dataset_facets(thing),
        inputFacets={"inputStatistics": _facet(counted, **sizes)} if sizes else {},
    )


def _output(thing: Thing) -> OutputDataset:
    sizes = _sizes(thing)
    counted = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet
    return OutputDataset(
        namespace=thing.namespace,
        name=thing.name,
        facets=_dataset_facets(thing),
        outputFacets={"outputStatistics": _facet(counted, **sizes)} if sizes else {},
    )
