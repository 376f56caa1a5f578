"""How a state reaches checkpointd without all of it being sent each time.

chunking    where to cut a state, by its content
comparing   what is new since the state before
scanning    the same where only the hashes of that one are left
wire        what client and daemon say to each other on the bulk socket
saving      the client: save a state, get one back
"""
