"""Runs amalgam_merge.py as a pipeline would, against a server of its own:

    AMALGAM_BINARY=target/debug/amalgam python3 -B -m unittest examples/pipelines/test_amalgam_merge.py
"""

import hashlib
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.request
from pathlib import Path

SCRIPT = Path(__file__).with_name("amalgam_merge.py")
REPOSITORY = SCRIPT.parents[2]
RECIPE = REPOSITORY / "examples/recipes/linear.yml"
# the sum is past what float32 holds
TOO_MUCH = """merge_method: linear
models:
  - {model: examples/models/upper, parameters: {weight: 3.0e+38}}
  - {model: examples/models/sort, parameters: {weight: 3.0e+38}}
parameters: {normalize: false}
dtype: float32
"""
LATER = "run_at=2099-01-01T00:00:00Z"
PATIENCE_SECONDS = 20


class Server:
    """One with an API key, in a directory of its own."""

    def __init__(self):
        self.binary = os.path.abspath(os.environ["AMALGAM_BINARY"])
        self.dir = tempfile.TemporaryDirectory()
        self.data = Path(self.dir.name, "data")
        create = ["keys", "create", "--name", "test", "--tenant", "test", "--scope", "jobs:read,jobs:write"]
        printed = subprocess.run(
            [self.binary, *create, "--data-dir", self.data], check=True, capture_output=True, text=True
        ).stdout
        self.key = re.search(r"amk_\w+", printed)[0]
        self.listen = "127.0.0.1:0"

    def start(self, workers=1):
        self.log = Path(self.dir.name, "log")
        arguments = ["serve", "--data-dir", self.data, "--listen", self.listen, "--workers", str(workers)]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen([self.binary, *arguments], cwd=REPOSITORY, stdout=log, stderr=log)
        self.listen = until(lambda: re.search(r"serving.*?address=(127\.0\.0\.1:\d+)", self.log.read_text()))[1]
        self.url = f"http://{self.listen}"

    def kill(self):
        self.process.kill()
        self.process.wait()

    def close(self):
        self.kill()
        self.dir.cleanup()

    def get(self, path):
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"Bearer {self.key}"})
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def merge(self, recipe, to, key, *more, url=None):
        """Starts the script."""
        environment = {**os.environ, "AMALGAM_URL": url or self.url, "AMALGAM_API_KEY": self.key, "NO_PROXY": "127.0.0.1"}
        command = [sys.executable, "-B", SCRIPT, recipe, "--to", to, "--key", key, *more]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


class AmalgamMerge(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        os.environ["NO_PROXY"] = "127.0.0.1"
        cls.server = Server()
        cls.addClassCleanup(cls.server.close)
        cls.server.start()

    def setUp(self):
        dir = tempfile.TemporaryDirectory()
        self.addCleanup(dir.cleanup)
        self.dir = Path(dir.name)
        self.to = self.dir / "merged"

    def ended(self, step):
        """Its exit code, its words, and the jobs that these name."""
        _, words = step.communicate(timeout=PATIENCE_SECONDS)
        return step.returncode, words, list(dict.fromkeys(re.findall(r"\bjob_\w+", words)))

    def run_step(self, *arguments, **more):
        return self.ended(self.server.merge(*arguments, **more))

    def queued_job(self, key):
        """A step whose job waits, and the job's id."""
        step = self.server.merge(RECIPE, self.to, key, "--query", LATER, "--query", f"label=test={key}")
        self.addCleanup(step.kill)
        jobs = until(lambda: self.server.get(f"/v1/jobs?label=test={key}")["data"])
        return step, jobs[0]["id"]

    def test_the_merged_model_is_downloaded_whole(self):
        code, words, [job] = self.run_step(RECIPE, self.to, "whole")
        self.assertEqual(code, 0, words)
        self.assert_whole(job)

    def assert_whole(self, job):
        listed = self.server.get(f"/v1/jobs/{job}/artifacts")["data"]
        here = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in self.to.iterdir()}
        self.assertEqual(here, {file["path"]: file["sha256"] for file in listed})
        self.assertIn("model.safetensors", here)

    def test_a_step_that_runs_again_finds_its_job(self):
        first = self.run_step(RECIPE, self.to, "again")
        second = self.run_step(RECIPE, self.dir / "again", "again")
        other = self.run_step(RECIPE, self.dir / "other", "another run")
        self.assertEqual([first[0], second[0], other[0]], [0, 0, 0], second[1])
        self.assertEqual(first[2], second[2])
        self.assertNotEqual(first[2], other[2])

    def test_a_failed_job_fails_the_step_and_is_done_again_by_the_next(self):
        recipe = self.dir / "recipe.yml"
        recipe.write_text(TOO_MUCH)
        code, words, [job] = self.run_step(recipe, self.to, "fails")
        self.assertEqual(code, 1, words)
        self.assertIn(f"error: job {job} failed: element 0 of tensor", words)
        self.assertFalse(self.to.exists())
        code, words, jobs = self.run_step(recipe, self.to, "fails")
        self.assertEqual((code, len(jobs)), (1, 2), words)
        self.assertEqual(self.server.get(f"/v1/jobs/{jobs[1]}")["retry_of"], job)

    def test_a_refused_recipe_is_exit_code_2_with_its_line(self):
        recipe = self.dir / "recipe.yml"
        recipe.write_text(TOO_MUCH.replace("weight", "wieght"))
        code, words, _ = self.run_step(recipe, self.to, "refused")
        self.assertEqual(code, 2, words)
        self.assertIn("line 3: unknown parameter `wieght`", words)

    def test_a_step_that_is_stopped_cancels_its_job(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            step, job = self.queued_job(f"stopped-by-{number}")
            step.send_signal(number)
            code, words, _ = self.ended(step)
            self.assertEqual(code, 128 + number, words)
            self.assertEqual(self.server.get(f"/v1/jobs/{job}")["status"], "cancelled")

    def test_a_server_that_was_killed_is_waited_for(self):
        server = Server()
        self.addCleanup(server.close)
        server.start(workers=0)
        step = server.merge(RECIPE, self.to, "killed")
        until(lambda: server.get("/v1/jobs")["data"])
        server.kill()
        server.start()
        code, words, jobs = self.ended(step)
        self.assertEqual((code, len(jobs)), (0, 1), words)
        self.assertIn("trying again", words)

    def test_cut_and_busy_connections_are_tried_again(self):
        gateway = BadGateway(("127.0.0.1", 0), self.server)
        self.addCleanup(gateway.server_close)
        self.addCleanup(gateway.shutdown)
        threading.Thread(target=gateway.serve_forever, daemon=True).start()
        code, words, [job] = self.run_step(RECIPE, self.to, "cut", url=f"http://127.0.0.1:{gateway.server_port}")
        self.assertEqual(code, 0, words)
        self.assert_whole(job)
        self.assertIn("429", words)
        self.assertEqual(gateway.ranges, ["bytes=100000-"])


class BadGateway(http.server.ThreadingHTTPServer):
    """Before the server: answers 429 to the first request, and cuts off the first answer that is long."""

    def __init__(self, address, server):
        super().__init__(address, Relay)
        self.behind = server.url
        self.busy, self.cut, self.ranges = True, True, []


class Relay(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0)) or None
        if self.server.busy:
            self.server.busy = False
            return self.give(429, {"Retry-After": "0", "Content-Length": "0"}, b"")
        if asked := self.headers["Range"]:
            self.server.ranges.append(asked)
        headers = {name: value for name, value in self.headers.items() if name != "Host"}
        request = urllib.request.Request(self.server.behind + self.path, body, headers, method=self.command)
        with urllib.request.urlopen(request) as answer:
            content = answer.read()
        if self.server.cut and len(content) > 100_000:
            self.server.cut, content = False, content[:100_000]
        self.give(answer.status, answer.headers, content)

    do_POST = do_GET

    def give(self, status, headers, content):
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


def until(ready):
    """What `ready` gives, once that is something."""
    give_up = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < give_up:
        if found := ready():
            return found
        time.sleep(0.02)
    raise TimeoutError("waited too long")


if __name__ == "__main__":
    unittest.main()
