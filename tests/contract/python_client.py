"""Uses a server through the Python client that openapi-python-client makes of openapi.yaml, and holds what it reads to its types.

    openapi-python-client generate --path openapi.yaml --meta none --output-path DIR/amalgam_client
    PYTHONPATH=DIR python tests/contract/python_client.py --url http://127.0.0.1:8080

A worker must run, and the server find the two models. The key is taken from AMALGAM_API_KEY, where there is one.
"""

import argparse
import datetime
import hashlib
import os
import uuid

from amalgam_client import AuthenticatedClient, Client
from amalgam_client.api.groups import cancel_group, get_group
from amalgam_client.api.jobs import (
    cancel_job,
    create_job,
    delete_job,
    get_artifact,
    get_job,
    list_artifacts,
    list_jobs,
    read_events,
    retry_job,
)
from amalgam_client.api.plans import create_plan, list_methods
from amalgam_client.api.server import healthz, version
from amalgam_client.models import (
    ArtifactList,
    CreatedGroup,
    CreatedJob,
    EventList,
    Finding,
    Group,
    Health,
    Job,
    JobList,
    JobStatus,
    MergeRequestBody,
    MethodList,
    Plan,
    PlanList,
    ProblemDocument,
    RecipeFormat,
    Version,
)

OVER = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)
NEVER = "2099-01-01T00:00:00Z"


def is_a(value, kind):
    assert isinstance(value, kind), f"a {kind.__name__} was expected, and this is {value!r}"
    return value


def problem(response, status, code):
    """What every error is."""
    assert response.status_code == status, (response.status_code, response.content)
    document = is_a(response.parsed, ProblemDocument)
    assert (document.status, document.code) == (status, code), document
    assert document.type_ == "urn:amalgam:problem:" + code.replace("_", "-")
    assert document.request_id == response.headers["X-Request-Id"]
    return document


def over(client, job_id):
    """The job when it is over."""
    for _ in range(6):
        job = is_a(get_job.sync(job_id, client=client, prefer="wait=20"), Job)
        if job.status in OVER:
            return job
    raise AssertionError(f"{job_id} is {job.status} after two minutes")


class Run:
    def __init__(self, client, models):
        self.client = client
        self.models = models
        # the jobs of this run alone
        self.label = {"contract": uuid.uuid4().hex}

    def recipe(self):
        inputs = [{"model": model, "parameters": {"weight": 1.0}} for model in self.models]
        return {"merge_method": "linear", "models": inputs, "dtype": "bfloat16"}

    def body(self, **more):
        return MergeRequestBody.from_dict({"recipe": self.recipe(), "labels": self.label, **more})

    def created(self, body, kind=CreatedJob, **more):
        response = create_job.sync_detailed(client=self.client, body=body, **more)
        assert response.status_code == 201, response.content
        created = is_a(response.parsed, kind)
        assert response.headers["Location"] == created.links.self_
        return created

    def what_there_is(self):
        assert is_a(healthz.sync(client=self.client), Health).status == "ok"
        assert is_a(version.sync(client=self.client), Version).name == "amalgam"
        methods = is_a(list_methods.sync(client=self.client), MethodList)
        assert {"linear", "slerp", "ties"} <= {method.name for method in methods.data}

    def yaml(self):
        """The generator knows no YAML: the text is posted beside it, and its types read the answer."""
        lines = ["merge_method: linear", "models:"]
        lines += [f"  - model: {model}\n    parameters: {{weight: 1.0}}" for model in self.models]
        text = "\n".join([*lines, "dtype: bfloat16", ""])
        params = {"label": [f"{key}={value}" for key, value in self.label.items()], "priority": 5}
        response = self.client.get_httpx_client().post(
            "/v1/jobs", content=text, params=params, headers={"Content-Type": "application/yaml"}
        )
        assert response.status_code == 201, response.text
        job = CreatedJob.from_dict(response.json())
        assert (job.recipe, job.recipe_format, job.priority) == (text, RecipeFormat.YAML, 5)
        return job.id

    def json(self):
        key = uuid.uuid4().hex
        job = self.created(self.body(metadata={"who": "me"}, max_attempts=2), idempotency_key=key)
        again = self.created(self.body(metadata={"who": "me"}, max_attempts=2), idempotency_key=key)
        assert again.id == job.id
        assert job.recipe_format is RecipeFormat.JSON
        assert (job.method, job.max_attempts, job.lenient) == ("linear", 2, False)
        assert (job.labels.to_dict(), job.metadata["who"]) == (self.label, "me")
        assert job.requirements.memory_bytes > 0
        assert all(isinstance(warning, Finding) for warning in job.warnings)
        return job.id

    def ends_well(self, job_id):
        job = over(self.client, job_id)
        assert job.status is JobStatus.SUCCEEDED, job.error
        assert job.created_at <= is_a(job.started_at, datetime.datetime) <= is_a(job.finished_at, datetime.datetime)
        assert job.created_at.utcoffset() == datetime.timedelta(0)
        assert job.error is None and job.phase is None and job.progress.fraction == 1.0
        assert [attempt.outcome for attempt in job.attempts] == ["succeeded"]
        events = is_a(read_events.sync(job_id, client=self.client, limit=100), EventList)
        assert [event.id for event in events.data] == [str(n + 1) for n in range(int(job.last_event_id))]
        assert (events.data[0].type_, events.has_more, events.next_cursor) == ("queued", False, None)

    def has_files(self, job_id):
        files = is_a(list_artifacts.sync(job_id, client=self.client), ArtifactList)
        assert files.bytes_ > 0 and files.uri
        assert {"config.json", "manifest.json", "model.safetensors"} <= {file.path for file in files.data}
        for file in files.data:
            content = get_artifact.sync_detailed(job_id, file.path, client=self.client).content
            assert hashlib.sha256(content).hexdigest() == file.sha256, file.path
        part = get_artifact.sync_detailed(job_id, "config.json", client=self.client, range_="bytes=0-0")
        assert (part.status_code, part.content) == (206, b"{")
        nothing = get_artifact.sync_detailed(job_id, "no/such", client=self.client)
        problem(nothing, 404, "artifact_not_found")

    def is_listed(self, ids):
        labels = [f"{key}={value}" for key, value in self.label.items()]
        seen, after = [], {}
        while True:
            page = is_a(list_jobs.sync(client=self.client, label=labels, status=[JobStatus.SUCCEEDED], limit=1, **after), JobList)
            seen += [is_a(job, Job).id for job in page.data]
            if not page.has_more:
                break
            after = {"after": is_a(page.next_cursor, str)}
        assert seen == ids, (seen, ids)
        problem(list_jobs.sync_detailed(client=self.client, limit=0), 400, "invalid_query")

    def is_cancelled(self):
        job = self.created(self.body(run_at=NEVER))
        assert (job.status, job.run_at.year, job.started_at) == (JobStatus.QUEUED, 2099, None)
        problem(retry_job.sync_detailed(job.id, client=self.client), 409, "job_not_finished")
        problem(delete_job.sync_detailed(job.id, client=self.client), 409, "job_not_finished")
        cancelled = is_a(cancel_job.sync(job.id, client=self.client), Job)
        assert cancelled.status is JobStatus.CANCELLED and cancelled.finished_at
        return job.id

    def is_done_again(self, job_id):
        again = is_a(retry_job.sync(job_id, client=self.client), CreatedJob)
        assert again.retry_of == job_id and again.run_at.year < 2099
        assert over(self.client, again.id).status is JobStatus.SUCCEEDED
        problem(cancel_job.sync_detailed(again.id, client=self.client), 409, "job_finished")
        return again.id

    def is_forgotten(self, job_id):
        assert delete_job.sync_detailed(job_id, client=self.client).status_code == 204
        problem(get_job.sync_detailed(job_id, client=self.client), 404, "job_not_found")

    def variants(self):
        variants = [{"name": name, "parameters": {"normalize": normalize}} for name, normalize in [("a", True), ("b", False)]]
        plans = is_a(create_plan.sync(client=self.client, body=self.body(variants=variants)), PlanList)
        assert [plan.variant for plan in plans.data] == ["a", "b"]
        created = self.created(self.body(variants=variants, run_at=NEVER), kind=CreatedGroup)
        group = is_a(get_group.sync(created.id, client=self.client), Group)
        assert (group.counts.queued, group.parameters) == (2, ["normalize"])
        assert [job.parameters["normalize"] for job in group.jobs] == [True, False]
        group = is_a(cancel_group.sync(created.id, client=self.client), Group)
        assert (group.status, group.counts.cancelled) == (JobStatus.CANCELLED, 2)
        for job in group.jobs:
            self.is_forgotten(job.id)

    def is_refused(self):
        recipe = {**self.recipe(), "merge_method": "slrp"}
        response = create_job.sync_detailed(client=self.client, body=MergeRequestBody.from_dict({"recipe": recipe}))
        refused = problem(response, 422, "invalid_recipe")
        assert "/merge_method" in [is_a(error, Finding).pointer for error in refused.errors]

    def all(self):
        self.what_there_is()
        plan = is_a(create_plan.sync(client=self.client, body=self.body(), tensors=True), Plan)
        assert plan.tensors == len(plan.tensor_tasks) > 0 and plan.output_bytes > 0
        first = self.yaml()
        self.ends_well(first)
        second = self.json()
        self.ends_well(second)
        self.has_files(second)
        self.is_listed([second, first])
        cancelled = self.is_cancelled()
        again = self.is_done_again(cancelled)
        self.variants()
        self.is_refused()
        for job_id in [first, second, cancelled, again]:
            self.is_forgotten(job_id)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default=os.environ.get("AMALGAM_URL", "http://127.0.0.1:8080"))
    parser.add_argument("--model", action="append", help="two, as a recipe names them")
    args = parser.parse_args()
    models = args.model or ["examples/models/sort", "examples/models/upper"]
    key = os.environ.get("AMALGAM_API_KEY")
    if key:
        stranger = list_jobs.sync_detailed(client=Client(base_url=args.url))
        problem(stranger, 401, "unauthenticated")
        client = AuthenticatedClient(base_url=args.url, token=key, timeout=60.0)
    else:
        client = Client(base_url=args.url, timeout=60.0)
    with client:
        Run(client, models).all()
    print("the generated client reads all of it")


if __name__ == "__main__":
    main()
