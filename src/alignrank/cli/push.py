"""The verb `push`."""

from __future__ import annotations

from typing import Annotated

import typer

from alignrank.cli.options import Json, Weights, print_json
from alignrank.weights.catalog import weights_file


def push(
    weights: Weights,
    repository: Annotated[str, typer.Argument(help="OWNER/NAME, made if it is not there")],
    private: Annotated[bool | None, typer.Option(help="of a new repository [default: as its owner has set]")] = None,
    data: Annotated[
        str | None, typer.Option(help="the data set's name, address, or hf://datasets/OWNER/NAME, for the reader")
    ] = None,
    licence: Annotated[str | None, typer.Option(help="of the weights, as the hub writes it: apache-2.0")] = None,
    picture: Annotated[bool, typer.Option(help="the run's sheet of validation images, too")] = True,
    as_json: Json = False,
) -> None:
    """Put weights on the Hugging Face hub, with their recipe and a page; log in by `hf auth login` or HF_TOKEN."""
    path = weights_file(weights)
    from alignrank.terminal.progress import say
    from alignrank.weights import checkpoint
    from alignrank.weights.publish import PushOptions
    from alignrank.weights.publish import push as send

    options = PushOptions(None, private, data, licence, picture)
    result = send(checkpoint.load(path), repository, options)
    say(f"wrote {', '.join(result['files'])} to {result['url']}")
    say(f"loaded by {result['address']}")
    if as_json:
        print_json(result)
