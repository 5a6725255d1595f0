"""A merge as a task of Airflow 2 or 3: put this file and amalgam_merge.py into the folder of DAGs.

The server is the connection `amalgam`: its host is the server's address with `https://`, its password the API key. `to`
must be a directory that later tasks see, too.
"""

from datetime import timedelta
from pathlib import Path

try:
    from airflow.sdk import BaseHook, Param, dag, task
    from airflow.sdk.exceptions import AirflowFailException
except ImportError:  # Airflow 2
    from airflow.decorators import dag, task
    from airflow.exceptions import AirflowFailException
    from airflow.hooks.base import BaseHook
    from airflow.models.param import Param

import amalgam_merge


@dag(
    schedule=None,
    catchup=False,
    params={
        "recipe": Param("/opt/airflow/recipes/recipe.yml", type="string", description="a YAML file"),
        "to": Param("/opt/airflow/models", type="string", description="models go to RUN_ID below it"),
    },
)
def amalgam_merge_dag():
    @task(retries=2, retry_delay=timedelta(minutes=1), execution_timeout=timedelta(hours=6))
    def merge(params=None, ti=None):
        connection = BaseHook.get_connection("amalgam")
        server = amalgam_merge.Server(connection.host, connection.password)
        recipe = Path(params["recipe"]).read_bytes()
        # a retry of the task, or the task cleared, is the same run
        key = f"airflow/{ti.dag_id}/{ti.run_id}/{ti.task_id}"
        to = Path(params["to"], ti.run_id)
        try:
            with amalgam_merge.signals_raise():
                amalgam_merge.merge(server, recipe, key, to)
        except amalgam_merge.Refused as error:
            raise AirflowFailException(str(error)) from error
        except amalgam_merge.JobFailed as error:
            if error.retryable:
                raise
            raise AirflowFailException(str(error)) from error
        return str(to)

    merge()


amalgam_merge_dag()
