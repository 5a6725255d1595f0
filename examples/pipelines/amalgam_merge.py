#!/usr/bin/env python3
"""One merge as a step of a pipeline: submits a recipe, follows the job to its end, downloads the merged model.

    AMALGAM_URL=https://amalgam.example AMALGAM_API_KEY=amk_... \\
        python3 amalgam_merge.py recipe.yml --to merged --key "$RUN_ID"

Progress goes to stderr. The exit code is 0 when the model is there, 1 when the job failed or was cancelled or the server
stayed away, 2 when the server refused the request. On SIGTERM or SIGINT the job is cancelled, and the code is 128 and the
signal's number.

The same key and recipe are the same job: a step that runs again finds what it began. Only a job that failed or was
cancelled is done anew. Needs Python 3.9 or newer and nothing else. A key needs the scopes jobs:read and jobs:write.
"""

import argparse
import hashlib
import http.client
import json
import os
import signal
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from pathlib import Path

POLL_SECONDS = 10
TIMEOUT_SECONDS = 30  # without a byte from the server; longer than a poll
PATIENCE_SECONDS = 600  # how long a server may be away
CANCEL_SECONDS = 20  # and while a job is cancelled, since platforms kill a step that does not end
LONGEST_PAUSE_SECONDS = 30
PIECE_BYTES = 1 << 20
MAY_PASS = (429, 502, 503, 504)
CUT = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError)


class Refused(Exception):
    """The server will not do it, and would not if it were asked again."""


class Away(Exception):
    """The server has not answered for too long."""


class JobFailed(Exception):
    """The job failed, or somebody cancelled it."""

    def __init__(self, message, retryable):
        super().__init__(message)
        self.retryable = retryable


def main():
    arguments = parse_arguments()
    try:
        with signals_raise():
            server = Server(arguments.url, os.environ.get("AMALGAM_API_KEY"))
            merge(server, arguments.recipe.read_bytes(), arguments.key, arguments.to, arguments.query)
    except Refused as error:
        fail(error, 2)
    except (Away, JobFailed, OSError) as error:
        fail(error, 1)


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="The API key is read from AMALGAM_API_KEY."
    )
    parser.add_argument("recipe", type=Path, help="a YAML file")
    parser.add_argument("--to", type=Path, required=True, help="directory for the merged model")
    parser.add_argument("--key", required=True, help="what names this run of the pipeline, and stays when it is run again")
    parser.add_argument("--url", default=os.environ.get("AMALGAM_URL"), help="address of the server [env: AMALGAM_URL]")
    parser.add_argument(
        "--query",
        action="append",
        default=[],
        type=name_and_value,
        metavar="NAME=VALUE",
        help="a query parameter of POST /v1/jobs, as in `priority=10` or `label=team=research`; repeatable",
    )
    arguments = parser.parse_args()
    if not arguments.url:
        parser.error("--url or AMALGAM_URL is needed")
    return arguments


def name_and_value(text):
    name, value = text.split("=", 1)
    return name, value


def fail(error, code):
    print(f"error: {error}", file=sys.stderr)
    if os.environ.get("GITHUB_ACTIONS") == "true":
        text = str(error).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
        print(f"::error title=Amalgam::{text}")
    sys.exit(code)


@contextmanager
def signals_raise():
    """Makes SIGTERM and SIGINT end what runs by SystemExit, in the main thread."""

    def stop(number, _frame):
        for each in before:
            signal.signal(each, signal.SIG_IGN)  # the second one must not break off the cancelling
        sys.exit(128 + number)

    before = {each: signal.signal(each, stop) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def merge(server, recipe, key, to, query=()):
    """Has `recipe` merged and gives the ids of its jobs: one, or one for each variant, which then goes to a directory of
    its name below `to`. Whatever stops this from outside cancels them."""
    # a recipe that was changed is another request, and may not have the same key
    key = hashlib.sha256(repr((key, recipe, sorted(query))).encode()).hexdigest()
    jobs = []
    try:
        jobs += submit(server, recipe, key, query)
        places = [Path(to, job.get("variant") or "") for job in jobs]
        for number, job in enumerate(jobs):
            jobs[number] = done_anew_if_failed(server, job, key)
        failures = [failure for failure in [follow(server, job) for job in jobs] if failure]
    except (Refused, Away):
        raise
    except BaseException:
        # it may have come before the answer did; the same key finds the jobs all the same
        server.patience = CANCEL_SECONDS
        cancel(server, jobs or submit(server, recipe, key, query))
        raise
    if failures:
        message = "\n".join(str(failure) for failure in failures)
        raise JobFailed(message, all(failure.retryable for failure in failures))
    for job, place in zip(jobs, places):
        download(server, job, place)
    return [job["id"] for job in jobs]


def submit(server, recipe, key, query):
    made = server.json("POST", "/v1/jobs?" + urllib.parse.urlencode(query), recipe, {"Idempotency-Key": key})
    return made.get("jobs", [made])


def done_anew_if_failed(server, job, key):
    """A job that was over before this run of the step, without a result, is of no use to it."""
    while job["status"] in ("failed", "cancelled"):
        say(f"{job['id']} {job['status']} before; doing it again")
        again = {"Idempotency-Key": f"{key}/after/{job['id']}"}
        job = server.json("POST", f"{job['links']['self']}/retry", b"", again)
    return job


def follow(server, job):
    """Tells what happens until the job is over; gives the failure, if it is one."""
    seen, last = "0", None
    while True:
        for event in server.json("GET", f"{job['links']['events']}?limit=100&after={seen}")["data"]:
            level = "" if event["level"] == "info" else f"{event['level']}: "
            say(f"{job['id']}: {level}{event['message']}")
            seen = event["id"]
        if job["status"] == "succeeded":
            return None
        if job["status"] in ("failed", "cancelled"):
            error = job["error"] or {"message": "somebody cancelled it", "retryable": False}
            return JobFailed(f"job {job['id']} {job['status']}: {error['message']}", error["retryable"])
        now = job["progress"] and progress(job)
        if now != last:
            say(f"{job['id']}: {now}")
            last = now
        job = server.json("GET", job["links"]["self"], headers={"Prefer": f"wait={POLL_SECONDS}"})


def progress(job):
    text = f"{job['phase'] or job['status']} {job['progress']['fraction']:.0%}"
    left = job["progress"].get("seconds_left")
    return f"{text}, {left} s left" if left else text


def cancel(server, jobs):
    for job in jobs:
        try:
            job = server.json("POST", job["links"]["cancel"], b"")
            say(f"{job['id']}: {job['status']}")
        except (Refused, Away) as error:  # such as: it is over
            say(f"{job['id']}: {error}")


def download(server, job, to):
    for file in server.json("GET", job["links"]["artifacts"])["data"]:
        target = to / file["path"]
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(target.name + ".partial")
        with open(partial, "wb") as out:
            found = server.download(file["url"], out)
        if found != file["sha256"]:
            raise OSError(f"{file['url']} is not the file that the server told of: its SHA-256 is {found}")
        os.replace(partial, target)
        say(f"downloaded {target}")


class Server:
    """Asks again while the server is away or busy."""

    def __init__(self, url, api_key=None):
        self.url = url.rstrip("/")
        self.headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.patience = PATIENCE_SECONDS
        self.heard = 0.0

    def json(self, method, path, body=None, headers=None):
        def exchange():
            with self.open(method, path, body, headers) as answer:
                return json.load(answer)

        return self.until_it_works(exchange)

    def download(self, path, out):
        """Writes a file to `out`, after a cut from there on, and gives its SHA-256."""
        digest = hashlib.sha256()

        def exchange():
            headers = {"Range": f"bytes={out.tell()}-"} if out.tell() else None
            with self.open("GET", path, headers=headers) as answer:
                while piece := answer.read(PIECE_BYTES):
                    self.heard = time.monotonic()
                    digest.update(piece)
                    out.write(piece)
                if answer.length:  # so much of it did not come
                    raise http.client.IncompleteRead(b"", answer.length)

        self.until_it_works(exchange)
        return digest.hexdigest()

    def open(self, method, path, body=None, headers=None):
        headers = {**self.headers, "Content-Type": "application/yaml", **(headers or {})}
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        return urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)

    def until_it_works(self, exchange):
        self.heard, pause = time.monotonic(), 1
        while True:
            try:
                return exchange()
            except urllib.error.HTTPError as error:
                if error.code not in MAY_PASS:
                    raise Refused(told(error)) from None
                said, after = error, error.headers.get("Retry-After", "")
                wait = int(after) if after.isdigit() else pause
            except CUT as error:
                said, wait = error, pause
            if time.monotonic() + wait > self.heard + self.patience:
                raise Away(f"{self.url} has been away too long: {said}")
            say(f"{said}; trying again in {wait} s")
            time.sleep(wait)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)


def told(error):
    """The problem document as a person reads it."""
    try:
        problem = json.load(error)
        findings = [f"\n  line {each['line']}: {each['detail']}" for each in problem["errors"] if "line" in each]
        return problem["detail"] + "".join(findings)
    except (ValueError, LookupError, TypeError):
        return str(error)


def say(text):
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
