"""Modules in the place of wandb and mlflow, which tests write where Python finds them."""

# Stand-ins with the signatures of wandb 0.31 and mlflow 3.17, as far as they are used. They note what they are told.
WANDB = """
calls, fail_at = [], None
class Run:
    def log(self, data, step=None, commit=None):
        if step == fail_at:
            raise ConnectionError("the server is gone\\nand a long story")
        calls.append(("log", step, data))
    def finish(self, exit_code=None):
        calls.append(("finish", exit_code))
def init(entity=None, project=None, dir=None, id=None, name=None, notes=None, tags=None, config=None, resume=None):
    calls.append(("init", dict(project=project, name=name, config=config, dir=dir, id=id, resume=resume)))
    if fail_at == "init":
        raise RuntimeError("No API key configured.")
    return Run()
"""
MLFLOW = """
import threading, types
calls, fail_at, uri, gate = [], None, None, threading.Event()
gate.set()
def is_tracking_uri_set():
    return uri is not None
def get_tracking_uri():
    return uri or "sqlite:////first/mlflow.db"
def set_tracking_uri(uri):
    calls.append(("set_tracking_uri", uri))
def start_run(run_id=None, experiment_id=None, run_name=None, nested=False):
    calls.append(("start_run", run_id, run_name))
    return types.SimpleNamespace(info=types.SimpleNamespace(run_id=run_id or "abc123"))
def log_params(params, synchronous=None, run_id=None):
    calls.append(("log_params", params))
def log_metrics(metrics, step=None, synchronous=None, run_id=None, timestamp=None):
    gate.wait()
    if step == fail_at:
        raise ConnectionError("the server is gone")
    calls.append(("log", step, metrics, run_id))
def end_run(status="FINISHED"):
    calls.append(("end_run", status))
"""
