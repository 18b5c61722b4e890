"""Statistics of models in the protocol's words."""

from collections.abc import Sequence

from shoal.serving.messages import ModelStatistics


def statistics_document(statistics: Sequence[ModelStatistics]) -> dict[str, object]:
    """The statistics as the answer to ``/v2/models/stats`` has them; times are in nanoseconds.

    A row is an inference and a kernel call is an execution, so the two tell how large the batches are.
    """
    return {"model_stats": [_model(one) for one in statistics]}


def _model(one: ModelStatistics) -> dict[str, object]:
    return {
        "name": one.name,
        "version": one.version,
        "last_inference": one.last_request_at_ms,
        "inference_count": one.rows,
        "execution_count": one.batches,
        "inference_stats": {
            "success": _duration(one.requests, one.request_ns),
            "fail": _duration(one.failures, one.failure_ns),
            "queue": _duration(one.requests, one.queue_ns),
            "compute_input": _duration(one.requests, one.input_ns),
            "compute_infer": _duration(one.batches, one.compute_ns),
            "compute_output": _duration(one.requests, one.output_ns),
            "cache_hit": _duration(one.cache_hits, 0),
            "cache_miss": _duration(one.cache_misses, 0),
        },
        "batch_stats": [],
    }


def _duration(count: int, total_ns: int) -> dict[str, int]:
    return {"count": count, "ns": total_ns}
