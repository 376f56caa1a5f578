"""`queue` and `resources`: what the model is busy with, and how the machine is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from selfwarectl import output, reach

if TYPE_CHECKING:
    from selfware_common.rpc import inference_pb2, resource_pb2


@click.command()
@output.json_option
def queue() -> None:
    """Show the requests that wait for the model or run in it.

    \b
    Examples:
      selfwarectl queue
      selfwarectl queue --json
    """
    from selfware_common.rpc import inference_pb2, inference_pb2_grpc

    with reach.calling("inferenced") as channel:
        reply = inference_pb2_grpc.InferenceStub(channel).Queue(inference_pb2.QueueRequest(), timeout=reach.SECONDS)
    if output.wants_json():
        output.emit(output.plain(reply))
        return
    rows = [_entry("running", one) for one in reply.running] + [_entry("waiting", one) for one in reply.waiting]
    output.table(("STATE", "PRIORITY", "TASK", "FOR", "TOKENS", "REQUEST"), rows, empty="the queue is empty")
    output.say(f"{reply.finished} finished, the newest at {reply.tokens_per_second:.1f} tokens/s")


def _entry(state: str, one: inference_pb2.QueueEntry) -> tuple[object, ...]:
    priority = output.plain(one)["priority"]
    return state, priority, one.task_id, output.duration(one.seconds), one.tokens, one.request_id


@click.command()
@output.json_option
def resources() -> None:
    """Show memory, disk, GPU and load, and the pressure that follows.

    \b
    Examples:
      selfwarectl resources
      selfwarectl resources --json
    """
    reading = read_resources()
    if output.wants_json():
        output.emit(output.plain(reading))
        return
    output.say(reading.sentence)
    output.pairs(_lines(reading))


def read_resources() -> resource_pb2.Reading:
    """One reading from resourced."""
    from selfware_common.rpc import resource_pb2, resource_pb2_grpc

    with reach.calling("resourced") as channel:
        stub = resource_pb2_grpc.ResourceStub(channel)
        return stub.Read(resource_pb2.ReadRequest(), timeout=reach.SECONDS)


def _lines(reading: resource_pb2.Reading) -> dict[str, object]:
    memory, disk, cpu = reading.memory, reading.disk, reading.cpu
    told = memory.stall_some_avg10 >= 0
    stalls = f", tasks stalled {memory.stall_some_avg10:.0f}% of the last 10 s" if told else ""
    lines: dict[str, object] = {
        "pressure": pressure_word(reading),
        "memory": f"{output.size(memory.available_bytes)} of {output.size(memory.total_bytes)} available{stalls}",
        "disk": f"{output.size(disk.free_bytes)} of {output.size(disk.total_bytes)} free, "
        f"{disk.inodes_used_ratio:.0%} of inodes used ({disk.path})",
        "load": f"{cpu.load_ratio:.2f} per core on {cpu.cores} cores",
    }
    for gpu in reading.gpus:
        used = f"{output.size(gpu.memory_used_bytes)} of {output.size(gpu.memory_total_bytes)} used"
        heat = f", {gpu.temperature_celsius:.0f} °C" if gpu.temperature_celsius >= 0 else ""
        busy = f", {gpu.utilization_ratio:.0%} busy" if gpu.utilization_ratio >= 0 else ""
        lines[f"gpu {gpu.index}"] = f"{gpu.name}: {used}{heat}{busy}"
    if not reading.gpus:
        lines["gpu"] = reading.gpu_note
    return lines


def pressure_word(reading: resource_pb2.Reading) -> str:
    """none, warning, critical, emergency."""
    return str(output.plain(reading)["pressure"])
