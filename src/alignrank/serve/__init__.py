"""A detector behind HTTP: `run.py` starts it, `app.py` answers, `worker.py` owns the network. The extra `serve`."""
