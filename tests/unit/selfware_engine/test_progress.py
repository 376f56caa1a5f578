"""Told apart: an engine at work, one with nothing to do, and one that answers and computes nothing."""

from __future__ import annotations

from selfware_engine.progress import Counters, Progress, counters

LLAMA = """HTTP/1.1 200 OK
Content-Type: text/plain

# HELP llamacpp:n_decode_total Total number of llama_decode() calls
# TYPE llamacpp:n_decode_total counter
llamacpp:n_decode_total 42
llamacpp:prompt_tokens_total 1000
llamacpp:tokens_predicted_total 7
llamacpp:predicted_tokens_seconds nan
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 2
llamacpp:requests_deferred 9
"""
VLLM = """# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a } b"} 1.0
vllm:num_requests_running{engine="1",model_name="m"} 2.0
vllm:prompt_tokens_total{engine="0",model_name="m"} 1.5e+06
vllm:generation_tokens_total{engine="0",model_name="m"} 10.0
vllm:iteration_tokens_total_sum{engine="0"} 5.0
vllm:iteration_tokens_total_bucket{engine="0",le="1.0"} 77.0
"""


def test_the_counters_of_llama_cpp_are_read() -> None:
    assert counters(LLAMA) == Counters(running=2, work=1049)


def test_the_counters_of_vllm_are_added_up_over_its_engines() -> None:
    assert counters(VLLM.replace("a } b", "ab")) == Counters(running=3, work=1_500_015)


def test_text_without_known_names_says_nothing() -> None:
    assert counters("") is None
    assert counters("process_cpu_seconds_total 1\nvllm:num_requests_running\nvllm:num_requests_running x") is None


def test_requests_that_run_without_any_progress_end_the_pulse_after_the_stall_timeout() -> None:
    progress = Progress(120, now=0)
    assert progress.take(200, Counters(1, 10), 10)
    assert progress.take(200, Counters(1, 11), 100)  # it moved
    assert progress.take(200, Counters(1, 11), 220)
    assert not progress.take(200, Counters(1, 11), 221)
    assert progress.take(200, Counters(1, 12), 222)  # it moves again


def test_an_engine_with_nothing_to_do_stands_still_for_days_and_is_well() -> None:
    progress = Progress(120, now=0)
    assert all(progress.take(200, Counters(0, 5), day * 86400.0) for day in range(7))
    assert progress.take(200, Counters(1, 5), 6 * 86400.0 + 100)  # a request has come: its time begins


def test_no_answer_during_a_long_step_is_no_standstill_until_the_time_is_over() -> None:
    progress = Progress(120, now=0)
    assert progress.take(200, Counters(1, 10), 1)
    assert progress.take(0, None, 60)
    assert progress.take(0, None, 121)
    assert not progress.take(0, None, 122)


def test_an_engine_that_publishes_no_counters_is_judged_by_its_health_alone() -> None:
    progress = Progress(120, now=0)
    assert progress.take(404, None, 1000)
    assert progress.take(404, None, 5000)
