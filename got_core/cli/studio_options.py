"""The options of `got studio`."""

import argparse
from collections.abc import Callable


def add_serving(command: argparse.ArgumentParser, positive: Callable[[str], int]) -> None:
    """Where the page is served, to whom, and how much of it."""
    command.add_argument("--host", default="127.0.0.1", help="address to listen at; by default only this machine's own")
    command.add_argument("--port", type=positive, default=7860, help="7860")
    command.add_argument(
        "--password-from", metavar="VARIABLE", help="environment variable with a password that visitors have to give"
    )
    command.add_argument("--max-seconds", type=positive, metavar="N", help="of the model's work on one request; 120")
    command.add_argument("--max-queue", type=positive, metavar="N", help="requests that may wait; 32")
    command.add_argument("--max-steps", type=positive, metavar="N", help="denoising steps that may be asked for; 100")
    command.add_argument("--max-megabytes", type=positive, metavar="N", help="of an uploaded picture; 12")
    command.add_argument("--max-megapixels", type=positive, metavar="N", help="of an uploaded picture; 25")
    command.add_argument("--max-boxes", type=positive, metavar="N", help="of a plan; 24")
    command.add_argument("--max-characters", type=positive, metavar="N", help="of a prompt; 500")
