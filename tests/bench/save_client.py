"""One whole client process that saves a state file or restores one: what a peer's command is compared with.

python -m tests.bench.save_client save SOCKET FILE STEP
python -m tests.bench.save_client restore SOCKET FILE
"""

from __future__ import annotations

import sys
from pathlib import Path

from selfware_common import clients
from selfware_common.rpc import checkpoint_pb2 as pb
from selfware_common.rpc import checkpoint_pb2_grpc
from tests.bench import served

SESSION = "process"


def main(verb: str, socket: str, file: str, step: str = "0") -> None:
    with clients.sync_channel(Path(socket)) as channel:
        stub = checkpoint_pb2_grpc.CheckpointStub(channel)
        if verb == "save":
            opened = stub.OpenSession(pb.OpenSessionRequest(session_id=SESSION, writer_id="bench"), timeout=60)
            header = pb.SaveHeader(session_id=SESSION, epoch=opened.epoch, level=pb.LEVEL_SESSION, sequence=int(step))
            served.save(stub, header, Path(file).read_bytes())
        else:
            newest = stub.Latest(pb.LatestRequest(session_id=SESSION), timeout=60)
            Path(file).write_bytes(served.load(stub, newest.checkpoint_id))


if __name__ == "__main__":
    main(*sys.argv[1:])
