"""What masks are drawn under: every check of JAX, 64-bit mode, the code of other platforms, two
processes."""

import contextlib
import os
import socket
import subprocess
import sys

import jax
from jax import lax


@contextlib.contextmanager
def every_check():
    with (
        jax.numpy_rank_promotion("raise"),
        jax.numpy_dtype_promotion("strict"),
        jax.debug_nans(True),
        jax.debug_key_reuse(True),
        jax.checking_leaks(),
        jax.transfer_guard("disallow"),
    ):
        yield


def x64(enable):
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(enable)
    return jax.experimental.enable_x64(enable)


@contextlib.contextmanager
def no_trace():
    def fail(event, duration, **details):
        assert event != "/jax/core/compile/jaxpr_trace_duration", f"traced {details}"

    jax.monitoring.register_event_duration_secs_listener(fail)
    try:
        yield
    finally:
        jax.monitoring.clear_event_listeners()


@contextlib.contextmanager
def code_of(platform):
    """Compiles what the platform would, and notes how often there was a choice."""
    original, choices = lax.platform_dependent, []

    def forced(*args, default, **others):
        choices.append(others)
        return others.get(platform, default)(*args)

    lax.platform_dependent = forced
    jax.clear_caches()
    try:
        yield choices
    finally:
        lax.platform_dependent = original
        jax.clear_caches()


def run_two_processes(program, folder):
    """Runs a program twice at once, with a folder, an address and the number of the process.

    Returns what each of them prints.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host, port = free.getsockname()
    processes = [
        subprocess.Popen(
            [sys.executable, program, folder, f"{host}:{port}", str(number)],
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]
    printed = []
    try:
        for process in processes:
            printed.append(process.communicate(timeout=240)[0])
            assert process.returncode == 0, printed[-1]
    finally:
        for process in processes:
            process.kill()
    return printed
