"""Every key of selfware.toml with its default and its reason: the one schema that all programs read.

The names follow the field's terms (systemd, vLLM, Prometheus); durations are in `_seconds`, sizes in `_bytes`. A test
keeps packaging/selfware.toml equal to these defaults.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from selfware_common import config
from selfware_common.config import setting

STRATEGIES = ("OneForOne", "OneForAll", "RestForOne")
PROVIDERS = ("embedded", "vllm", "llamacpp", "ollama", "openai")


@dataclass(frozen=True)
class System:
    """[system]"""

    session_id: str = setting("auto", "Name of the session; 'auto' continues the one worked on last, or begins 'main'.")
    max_runtime_hours: float = setting(168.0, "The agent stops gracefully after this long.", minimum=0.01)
    shutdown_grace_period_seconds: float = setting(60.0, "Time for the last checkpoint on stop.", minimum=0)


@dataclass(frozen=True)
class CheckpointLevel:
    """[checkpoint.levels.<level>]"""

    enabled: bool = setting(True, "Whether checkpoints of this level are made.")
    interval_seconds: float = setting(300.0, "Time between two of them.", minimum=0.1)
    on_completion: bool = setting(True, "Make one whenever a task ends (task level only).")


def _every(seconds: float) -> CheckpointLevel:
    return CheckpointLevel(interval_seconds=seconds)


@dataclass(frozen=True)
class CheckpointLevels:
    """[checkpoint.levels]"""

    micro: CheckpointLevel = setting(lambda: _every(30.0), "Stream position and partial output.")
    task: CheckpointLevel = setting(lambda: _every(300.0), "State at the end of a task.")
    session: CheckpointLevel = setting(lambda: _every(300.0), "The whole agent state; also made on a graceful stop.")
    system: CheckpointLevel = setting(
        lambda: _every(900.0), "Everything, with the files of the workspaces, so that both can go back together."
    )


@dataclass(frozen=True)
class Encryption:
    """[checkpoint.encryption]"""

    enabled: bool = setting(
        False, "Encrypt what is stored from now on. The key is the systemd credential 'checkpoint-key'."
    )
    key_file: str = setting(
        "", "A file with the key, where there are no systemd credentials; only its owner may read it."
    )


@dataclass(frozen=True)
class ColdTier:
    """[checkpoint.cold]"""

    directory: str = setting("", "Copy old checkpoints to this directory, on another disk or mount; empty: not there.")
    url: str = setting("", "Or to an S3-compatible store, as s3://BUCKET/PREFIX; empty: not there.")
    endpoint: str = setting("", "That store's address, as https://HOST:PORT; empty: AWS itself.")
    region: str = setting("us-east-1", "That store's region; most other than AWS take any.")
    after_seconds: float = setting(86_400.0, "Age at which a checkpoint is copied there.", minimum=0)
    keep_local_bytes: int = setting(
        1024**3, "Of what was copied so much stays here too: it reads faster, and each copy heals the other.", minimum=0
    )
    scrub: bool = setting(True, "Read the copies there too when all is verified; false saves what the reading costs.")


@dataclass(frozen=True)
class Checkpoint:
    """[checkpoint]"""

    enabled: bool = setting(True, "Whether checkpoints are made at all; the journal is always kept.")
    interval_seconds: float = setting(
        300.0,
        "Time between session checkpoints; the shorter one of this and levels.session.interval_seconds counts.",
        minimum=0.1,
    )
    compression: str = setting("zstd", "Compression of stored chunks.", choices=("zstd",))
    compression_level: int = setting(
        6, "zstd level, 1 (fast) to 19 (small), of packs once they are packed tight.", minimum=1, maximum=19
    )
    storage_path: str = setting("", "Directory of the store; empty: the daemon's state directory.")
    max_size_bytes: int = setting(
        10 * 1024**3,
        "Upper bound of everything in the store, also while it is written: checkpoints, events, the reserve.",
        minimum=1024**2,
    )
    retention_days: int = setting(
        7,
        "Older checkpoints go, and events that two others hold; younger ones are thinned out: all of an hour, then one "
        "per 10 min, hour, day. Tagged ones stay.",
        minimum=1,
    )
    keep_per_level: int = setting(20, "So many of the newest of each level stay, however old.", minimum=1)
    most_per_level: int = setting(
        0, "At most so many of each session and level; 0: as many as thinning leaves, about 500.", minimum=0
    )
    incremental: bool = setting(True, "Store only what changed.")
    content_defined_chunking: bool = setting(True, "Cut chunks by content, so that an insertion stays local.")
    min_interval_seconds: float = setting(
        30.0, "Shortest interval of a level, whatever else is set; only the end of a task does not wait.", minimum=0
    )
    max_interval_seconds: float = setting(
        300.0,
        "Longest interval of the micro and session levels while work goes on; only saving that would take more than "
        "5% of the time, or a full disk, makes it longer.",
        minimum=0.1,
    )
    changes_threshold: int = setting(
        100, "Events since the last session checkpoint that make the next one due early.", minimum=1
    )
    adaptive: bool = setting(True, "Halve the intervals under critical memory pressure, down to the shortest.")
    scrub_days: float = setting(
        7.0, "In so many days everything at rest is read and verified once, little by little; 0: never.", minimum=0
    )
    redact_secrets: bool = setting(
        True, "Take keys and tokens of well-known forms out of what actions print, before it is remembered."
    )
    redact_patterns: tuple[str, ...] = setting(
        (), "More regular expressions of secrets; a group called 'secret' is what goes, else all that matches."
    )
    levels: CheckpointLevels = setting(CheckpointLevels, "The four levels.")
    encryption: Encryption = setting(Encryption, "Encryption at rest.")
    cold: ColdTier = setting(
        ColdTier,
        "Where old checkpoints go. The keys of an S3 store come as systemd credentials or from the environment.",
    )


@dataclass(frozen=True)
class Backoff:
    """[supervision.backoff_strategy]"""

    type: str = setting("Exponential", "Growth of the delay.", choices=("Fixed", "Linear", "Exponential"))
    base_seconds: float = setting(1.0, "First delay.", minimum=0)
    max_seconds: float = setting(60.0, "Longest delay.", minimum=0)


@dataclass(frozen=True)
class HealthCheck:
    """[supervision.health_check]"""

    interval_seconds: float = setting(10.0, "Time between checks.", minimum=0.1)
    timeout_seconds: float = setting(5.0, "A check that takes longer has failed.", minimum=0.1)
    failure_threshold: int = setting(3, "Failures in a row before a component counts as unhealthy.", minimum=1)


@dataclass(frozen=True)
class Supervision:
    """[supervision]"""

    strategy: str = setting("OneForOne", "What restarts together.", choices=STRATEGIES)
    max_restarts: int = setting(5, "Restarts within max_seconds before giving up.", minimum=1)
    max_seconds: float = setting(60.0, "Window of max_restarts.", minimum=1)
    backoff_strategy: Backoff = setting(Backoff, "Delay before a restart.")
    health_check: HealthCheck = setting(HealthCheck, "Checks of the components.")


@dataclass(frozen=True)
class GpuSettings:
    """[resources.gpu]"""

    monitor_interval_seconds: float = setting(5.0, "Time between readings.", minimum=0.1)
    temperature_threshold: float = setting(85.0, "Degrees Celsius that count as critical.", minimum=1)
    memory_utilization_threshold: float = setting(0.95, "Used share that counts as critical.", minimum=0, maximum=1)
    throttle_on_overheat: bool = setting(True, "Publish critical pressure when too hot.")


@dataclass(frozen=True)
class MemorySettings:
    """[resources.memory]"""

    warning_threshold: float = setting(0.70, "Used share that counts as a warning.", minimum=0, maximum=1)
    critical_threshold: float = setting(0.85, "Used share that counts as critical.", minimum=0, maximum=1)
    emergency_threshold: float = setting(0.95, "Used share that counts as an emergency.", minimum=0, maximum=1)
    monitor_interval_seconds: float = setting(2.0, "Time between readings.", minimum=0.1)


@dataclass(frozen=True)
class DiskSettings:
    """[resources.disk]"""

    max_usage_percent: float = setting(0.85, "Used share that counts as critical.", minimum=0, maximum=1)
    maintenance_interval_seconds: float = setting(3600.0, "Time between clean-ups.", minimum=1)
    compress_after_days: int = setting(1, "Age at which logs and segments are compressed.", minimum=0)


@dataclass(frozen=True)
class Quotas:
    """[resources.quotas]"""

    max_gpu_memory_per_model: int = setting(20_000_000_000, "Bytes of GPU memory one model may take.", minimum=0)
    max_concurrent_requests: int = setting(4, "Requests in an engine at once.", minimum=1)
    max_context_tokens: int = setting(1_000_000, "Tokens of one context window.", minimum=1)
    max_queued_tasks: int = setting(1000, "Goals waiting at once.", minimum=1)
    max_checkpoint_size: int = setting(2_000_000_000, "Bytes of one state.", minimum=1024)


@dataclass(frozen=True)
class Resources:
    """[resources]"""

    gpu: GpuSettings = setting(GpuSettings, "GPU readings.")
    memory: MemorySettings = setting(MemorySettings, "Memory readings.")
    disk: DiskSettings = setting(DiskSettings, "Disk readings.")
    quotas: Quotas = setting(Quotas, "Upper bounds.")


@dataclass(frozen=True)
class Quantization:
    """[llm.quantization]"""

    auto_adjust: bool = setting(True, "Pick a smaller format when memory is short.")
    preferred: str = setting("none", "Format to start with.")
    fallback: tuple[str, ...] = setting(("fp8", "int8", "int4"), "Formats to fall back to, in order.")


@dataclass(frozen=True)
class Context:
    """[llm.context]"""

    max_tokens: int = setting(8192, "Context window the agent plans for.", minimum=256)
    compression_strategy: str = setting(
        "SlidingWindow",
        "How a long conversation is shortened.",
        choices=("Hierarchical", "SlidingWindow", "Selective", "Hybrid"),
    )
    summary_interval: int = setting(10, "Steps between summaries.", minimum=1)


@dataclass(frozen=True)
class QueueSettings:
    """[llm.queue]"""

    max_concurrent: int = setting(2, "Requests in the engine at once.", minimum=1)
    enable_preemption: bool = setting(True, "A higher priority may interrupt a lower one.")
    preemption_mode: str = setting("recompute", "What happens to the interrupted one.", choices=("swap", "recompute"))


@dataclass(frozen=True)
class Llm:
    """[llm]"""

    provider: str = setting("embedded", "Which kind of engine answers.", choices=PROVIDERS)
    model: str = setting("qwen2.5-coder-0.5b", "Name in the catalogue (embedded) or at the endpoint.")
    model_path: str = setting("", "A model file or directory instead of the catalogue.")
    base_url: str = setting("", "Endpoint: http://host:port/v1 or unix:/path/engine.sock.")
    api_key_file: str = setting("", "File holding the endpoint's key; never written to logs or events.")
    vllm_command: tuple[str, ...] = setting(
        ("vllm",), "vLLM: how to start it, in an environment of its own: the command, or python -m ...api_server."
    )
    vllm_arguments: tuple[str, ...] = setting((), "vLLM: more arguments, such as --dtype bfloat16; they win.")
    tensor_parallel_size: int = setting(1, "vLLM: GPUs per model.", minimum=1)
    gpu_memory_utilization: float = setting(0.90, "vLLM: share of GPU memory.", minimum=0.01, maximum=1)
    max_model_len: int = setting(8192, "Context window of the engine.", minimum=256)
    max_num_seqs: int = setting(2, "Sequences decoded at once (slots).", minimum=1)
    enable_prefix_caching: bool = setting(True, "Reuse the common beginning of prompts.")
    enable_chunked_prefill: bool = setting(True, "Prefill long prompts in pieces.")
    stall_timeout_seconds: float = setting(120.0, "No token for this long counts as a dead engine.", minimum=1)
    quantization: Quantization = setting(Quantization, "Number formats.")
    context: Context = setting(Context, "Context window.")
    queue: QueueSettings = setting(QueueSettings, "Admission queue.")


@dataclass(frozen=True)
class AgentSettings:
    """[agent]"""

    workers: int = setting(1, "Tasks worked on at once.", minimum=1)
    strategy: str = setting(
        "auto",
        "'sample': one narrowed write per attempt, judged by the check (small models); 'loop': free choice of "
        "actions; 'auto': sample where a check and target files are known, else loop.",
        choices=("auto", "sample", "loop"),
    )
    max_attempts: int = setting(10, "Attempts per task before it counts as failed.", minimum=1)
    max_steps: int = setting(40, "Model calls per attempt in the loop strategy.", minimum=1)
    max_reply_tokens: int = setting(
        600, "Tokens of one reply; a small model that goes on longer is repeating itself.", minimum=16
    )
    temperature: float = setting(0.8, "Of every sample after the first, greedy one.", minimum=0, maximum=2)
    budget_tokens: int = setting(1_000_000, "Default token budget of a task.", minimum=1)
    budget_hours: float = setting(24.0, "Default time budget of a task.", minimum=0.001)
    check_timeout_seconds: float = setting(600.0, "A check that runs longer has failed.", minimum=1)


@dataclass(frozen=True)
class Logging:
    """[observability.logging]"""

    level: str = setting("info", "Least important line that is written.", choices=("debug", "info", "warning", "error"))
    format: str = setting("json", "Format of exported logs.", choices=("json", "text"))
    retention_days: int = setting(7, "Age at which exported logs go.", minimum=1)
    max_file_size_mb: int = setting(100, "Size at which an exported log is rotated.", minimum=1)


@dataclass(frozen=True)
class Metrics:
    """[observability.metrics]"""

    enabled: bool = setting(True, "Serve Prometheus metrics.")
    prometheus_port: int = setting(9464, "Port on loopback.", minimum=1, maximum=65535)


@dataclass(frozen=True)
class Tracing:
    """[observability.tracing]"""

    enabled: bool = setting(False, "Send traces.")
    otlp_endpoint: str = setting("", "OTLP/HTTP endpoint.")
    sampling_rate: float = setting(1.0, "Share of traces that is sent.", minimum=0, maximum=1)


@dataclass(frozen=True)
class Observability:
    """[observability]"""

    logging: Logging = setting(Logging, "Logs.")
    metrics: Metrics = setting(Metrics, "Metrics.")
    tracing: Tracing = setting(Tracing, "Traces.")


@dataclass(frozen=True)
class Patterns:
    """[intervention.policy.<list>]"""

    patterns: tuple[str, ...] = setting((), "Glob patterns over '<class>: <canonical action>'.")


@dataclass(frozen=True)
class InterventionPolicy:
    """[intervention.policy]"""

    default_on_timeout: str = setting(
        "Pause", "What an unanswered question does to its task.", choices=("Pause", "Reject")
    )
    auto_approve: Patterns = setting(Patterns, "Never an interpreter, whatever stands here.")
    require_approval: Patterns = setting(Patterns, "Always a person.")
    auto_reject: Patterns = setting(Patterns, "Never.")


@dataclass(frozen=True)
class Notifications:
    """[intervention.notifications]"""

    webhook_url: str = setting("", "POSTed to when a person is needed.")
    slack_webhook: str = setting("", "Slack incoming webhook.")
    email: str = setting("", "Address to mail.")


@dataclass(frozen=True)
class Intervention:
    """[intervention]"""

    enabled: bool = setting(True, "Ask people at all; when false, what would be asked is refused.")
    port: int = setting(8080, "Port of the operator API on loopback.", minimum=1, maximum=65535)
    default_timeout_seconds: float = setting(1800.0, "An approval question expires after this long.", minimum=1)
    policy: InterventionPolicy = setting(InterventionPolicy, "Lists; forbid beats ask beats allow.")
    notifications: Notifications = setting(Notifications, "How people are told.")


@dataclass(frozen=True)
class Settings:
    """selfware.toml"""

    system: System = setting(System, "The run as a whole.")
    agent: AgentSettings = setting(AgentSettings, "The loop.")
    checkpoint: Checkpoint = setting(Checkpoint, "Memory.")
    supervision: Supervision = setting(Supervision, "Restarts.")
    resources: Resources = setting(Resources, "The machine.")
    llm: Llm = setting(Llm, "The model.")
    observability: Observability = setting(Observability, "What can be seen from outside.")
    intervention: Intervention = setting(Intervention, "People.")


def load(path: Path) -> Settings:
    """selfware.toml plus its drop-ins; raises ConfigError."""
    return config.load(Settings, path)
